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
// An overlay's tables are facts too, many at once: what should be, less what is,
// is what [Host.ApplyForwarding] does in a few system calls.
//
//	change, err := k.EnsureVXLAN(kernel.VXLAN{Name: "wx-…", VNI: 5000, Port: 4790, Local: underlay, Bridge: "wf-…"})
//	fdb, err := k.FDB("wx-…") // and k.Neighbors("wf-…"); when change is Made, the FDB is empty
//	err = k.ApplyForwarding(kernel.DiffForwarding(want, kernel.Forwarding{FDB: fdb, Neighbors: neighbors}))
//
// A host is on the line of its own macvlan or ipvlan devices by a shim, see [Host.EnsureShim].
//
// What it does not do: it keeps no record of what should exist, it installs no
// firewall rule, and it never waits for a peer. Deleting links costs an RCU
// grace period each, so [Host.DeleteLinks] takes many at once and the caller
// decides when.
package kernel
