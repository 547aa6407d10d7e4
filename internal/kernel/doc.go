// Package kernel is weft's one seam to netlink, network namespaces and
// sysctls.
//
// It describes facts ("this bridge exists with these addresses") and makes
// them true; a second call with the same fact changes nothing. Callers declare
// the interface they need and take a [Host] (the real kernel) or a [Fake] (a
// model that prints itself as text).
//
//	k, err := kernel.Open(kernel.Config{})
//	made, err := k.EnsureBridge(kernel.Bridge{Name: "wf-0123456789ab", MTU: 1500, ...})
//	err = k.AddVeth(kernel.Veth{Host: "wv-…", Peer: "wp-…", Bridge: "wf-…"})
//
// What it does not do: it keeps no record of what should exist, it installs no
// firewall rule, and it never waits for a peer. Deleting links costs an RCU
// grace period each, so [Host.DeleteLinks] takes many at once and the caller
// decides when.
package kernel
