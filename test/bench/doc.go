// Package bench measures weft against the built-in drivers on real engines,
// always as ratios in one interleaved run with an A/A control. Its tests have
// the build tag bench; `make bench-run` runs them.
package bench
