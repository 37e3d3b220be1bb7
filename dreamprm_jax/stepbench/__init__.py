"""StepBench: a benchmark of whether a scorer can find the function that makes a program wrong.

The programs are real programs with several functions (references of CodeI/O). Erroneous programs have one fault in one
function, injected and verified by tests, so that the first wrong step is known exactly. Clean programs are the same
programs without a fault. The metrics are those of ProcessBench (arXiv 2412.06559): accuracy on erroneous programs,
accuracy on correct programs, and their harmonic mean.

    dreamprm stepbench make   --output DIR --seed 0        writes the benchmark and its data card
    dreamprm stepbench export --bench DIR --output FILE    writes only the programs, for a scorer
    dreamprm stepbench score  --bench DIR --scores FILE    prints the metrics of any scorer's output
"""
