// Package overlay measures overlay networks of weft on real engines against the
// built-in overlay of a Swarm of the same engines on the same hosts, always as ratios
// in one interleaved run with an A/A control. Its tests have the build tag bench;
// `make bench-overlay` runs them. Package entries, below, measures what needs no
// engine; netload is what runs in the containers.
package overlay
