// Package entries measures how fast a host programs what other hosts publish: a real
// store, the directory, the overlay kind and the kernel of a network namespace of its
// own, without an engine. Its tests have the build tag bench; `make bench-overlay` runs
// them.
package entries
