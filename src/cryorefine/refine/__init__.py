"""One iteration: settings, plan and state, expectation, backprojection, evaluation, references."""
