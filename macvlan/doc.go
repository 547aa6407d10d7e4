// Package macvlan is the kind of network whose containers are machines of their own on the
// line of a device of the host's, each with its MAC address, with the built-in macvlan
// driver's options and meanings.
//
//	kind := macvlan.New(parented.Config{Kernel: k, Later: later, Parents: parents, Addresses: ipam, Seed: id})
//	d, err := driver.New(driver.Config{Kinds: map[string]driver.Kind{"macvlan": kind}, …})
//
// The host itself does not reach its containers, nor they the host, unless the network has
// host_access=true: that is how the kernel's macvlan is. What both kinds on a parent have in common is package parented.
package macvlan
