# Two doors for newcomers; both lead to .ci/run, where everything is.
.PHONY: demo test

demo: ; @bash .ci/run demo
test: ; @bash .ci/run test
