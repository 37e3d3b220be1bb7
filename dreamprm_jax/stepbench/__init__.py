"""StepBench: can a scorer name the function in which a program goes wrong?

Real programs of several functions (references of CodeI/O), each with one fault injected into one function and verified
by tests, so that the first wrong step is known exactly; and the same programs as they were. Metrics are ProcessBench's
(arXiv 2412.06559): accuracy on erroneous programs, on correct ones, and their harmonic mean.

    dreamprm stepbench make   --output DIR --seed 0        the benchmark, with its data card
    dreamprm stepbench export --bench DIR --output FILE    the programs alone, for a scorer
    dreamprm stepbench score  --bench DIR --scores FILE    the metrics of scores from anywhere
"""
