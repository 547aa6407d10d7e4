// Package macvlan measures the kernel's work for one container on the line: a device that
// is made inside its sandbox, against one that is made on the host and moved. Its tests
// have the build tag bench; `make bench-macvlan` runs them.
package macvlan
