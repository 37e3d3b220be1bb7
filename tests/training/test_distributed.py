"""Settings of several processes, and SIGTERM, which is kept until the work inside has handled it."""

import os
import signal

import jax
import numpy as np
import pytest
from training_toy import make_examples

from dreamprm_jax.config import DistributedConfig, MeshConfig
from dreamprm_jax.schema import DataError
from dreamprm_jax.training import distributed
from dreamprm_jax.training.feed import PackedRows
from dreamprm_jax.training.global_batch import local_rows, step_batch
from dreamprm_jax.training.mesh import make_mesh


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DistributedConfig("explicit", "", 2, 0), r"coordinator_address='': must be host:port of process 0"),
        (DistributedConfig("explicit", "host", 2, 0), r"coordinator_address='host': must be host:port"),
        (DistributedConfig("explicit", "host:1", 2, 2), r"process_id=2: must be from 0 to num_processes - 1, .* is 2"),
        (DistributedConfig("explicit", "host:1"), r"process_id=-1: must be from 0 .* num_processes is 0"),
    ],
)
def test_settings_that_say_too_little_are_refused(settings, message):
    with pytest.raises(DataError, match=rf"config\.distributed\.{message}"):
        distributed.initialize(settings)
    assert not jax.distributed.is_initialized()


def test_off_joins_nobody():
    distributed.initialize(DistributedConfig())
    assert not jax.distributed.is_initialized()
    assert distributed.is_main()
    assert distributed.main_first("x", lambda: 3) == 3
    distributed.barrier("alone")
    distributed.stop_if_any_was_asked()
    np.testing.assert_array_equal(distributed.to_host({"a": jax.numpy.arange(3)})["a"], [0, 1, 2])


def test_a_request_is_kept_and_one_that_nobody_acted_on_goes_on():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with distributed.keep_stop_signals() as outer:
            with distributed.keep_stop_signals() as inner:
                assert not inner.requested
                os.kill(os.getpid(), signal.SIGTERM)
                assert inner.requested
            assert outer.requested  # the outer work must still handle it
            assert outer.exit_status == 143
            assert not seen
        assert seen == [signal.SIGTERM]
        with pytest.raises(SystemExit):
            _act_on_a_request()
        assert seen == [signal.SIGTERM]  # handled
        with distributed.keep_stop_signals() as again:
            assert not again.requested
    finally:
        signal.signal(signal.SIGTERM, before)


def _act_on_a_request():
    with distributed.keep_stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(143)


def test_rows_of_a_process_carry_the_shares_of_the_whole_batch():
    rows = PackedRows(make_examples(24), 32, 4, seed=0)
    whole, part = rows.batch(2), rows.batch(2, [3, 1])
    np.testing.assert_array_equal(part.tokens, whole.tokens[[3, 1]])
    np.testing.assert_array_equal(part.label_share, whole.label_share[[3, 1]])
    np.testing.assert_array_equal(part.outcome_share, whole.outcome_share[[3, 1]])
    assert whole.label_share.sum() == whole.label_mask.sum()
    assert whole.outcome_share.sum() == whole.outcome_mask.sum()
    mesh = make_mesh(MeshConfig())
    assert local_rows(mesh, 4) == [0, 1, 2, 3]
    stacked = step_batch(rows, [2, 3], 2, mesh)
    assert stacked.tokens.shape == (2, 2, 2, 32)
    np.testing.assert_array_equal(stacked.tokens[1, 1], rows.batch(3).tokens[2:])
