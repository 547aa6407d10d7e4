// Package ipvlan is the kind of network whose containers share the line and the MAC address
// of a device of the host's, with the built-in ipvlan driver's options and meanings: for
// lines that admit one MAC address, such as a cloud's or a wireless one.
//
//	kind := ipvlan.New(parented.Config{Kernel: k, Later: later, Parents: parents, Addresses: ipam, Seed: id})
//	d, err := driver.New(driver.Config{Kinds: map[string]driver.Kind{"ipvlan": kind}, …})
//
// In the modes l3 and l3s the host routes for its containers, and the routers of the line
// have to know the way to the subnet: weft does not tell them. What both kinds on a parent
// have in common is package parented.
package ipvlan
