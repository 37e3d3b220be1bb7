"""Design choices of the bi-level arms, on the small structural reward model.

Command:  python -m research.study --config=research/configs/bilevel.py --workdir=runs/study_bilevel
Longer:   --config.recipe.steps=4000 --config.warm_share=0.1 --config.seeds="(100,)" --config.regimes="('k1',)", and
          the arms of research/results/bilevel_long/study.csv: a label is visited about 75 times
Cost:     about 10 seconds an arm on one core
Expected: docs/label_correction.md
"""

from ml_collections import config_dict

from research.study.presets import structural


def get_config() -> config_dict.ConfigDict:
    config = structural()
    config.name = "study_bilevel"
    config.seeds = (100, 101, 102)
    config.regimes = ("k1", "weak_tests", "family_bias", "k4")
    config.arms = (
        "raw",
        "raw:without_meta=1",  # the control of the joint held-out arms
        # the paper's label table: rate, what the outer loss looks at, joint or two-phase
        "label_table:rate=0.1",
        "label_table:rate=0.1,phase=retrain",
        "label_table:phase=retrain",
        "label_table:meta=same,rate=0.1",
        "label_table:meta=same",
        "label_table:meta=same,rate=2",
        "label_table:meta=same,phase=retrain",
        "label_table:meta=same,rate=0.1,phase=retrain",
        "label_table:meta=clean_steps,rate=0.1,phase=retrain",
        "label_table:meta=clean_steps,phase=retrain",
        # outcomes out of the inner loss, plain SGD, longer unrolls
        "label_table:outcomes=0,rate=0.1,phase=retrain",
        "label_table:outcomes=0,phase=retrain",
        "label_table:outcomes=0,rate=2,phase=retrain",
        "label_table:outcomes=0,meta=clean_steps,phase=retrain",
        "label_table:rate=0.1,inner=sgd,phase=retrain",
        "label_table:rate=0.1,unroll=2,phase=retrain",
        "label_table:rate=0.1,unroll=4,phase=retrain",
        # the authors' code: weights
        "weight_table:meta=same,rate=0.05",
        "weight_table:rate=0.05",
        "weight_table:meta=clean_steps,rate=0.05",
        # networks, which share what they learn over steps
        "corrector_net:rate=0.003,phase=retrain",
        "corrector_net:meta=clean_steps,rate=0.01,phase=retrain",
        # bi-level refinement of inferred labels
        "undetected_fault",
        "undetected_fault_online",
        "label_table:start=undetected_fault,rate=0.1,phase=retrain",
        "label_table:start=undetected_fault,meta=clean_steps,rate=0.1,phase=retrain",
        "corrector_net:start=undetected_fault,rate=0.003,phase=retrain",
        "corrector_net:start=undetected_fault,meta=clean_steps,rate=0.01,phase=retrain",
        "calibrator",
        "clean",
    )
    return config
