// Package ipam measures the address book of real weft processes on a real etcd of
// three members, all in a network namespace of their own. Its tests have the build
// tag bench; `make bench-ipam` runs them.
package ipam
