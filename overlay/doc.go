// Package overlay is the kind of network that many hosts have: on each a Linux bridge
// with a VXLAN device, on all one subnet.
//
//	kind := overlay.New(overlay.Config{Kernel: k, Firewall: fw, Directory: d, Addresses: book, …})
//	go kind.Run(ctx)                     // programs what the directory says
//
// Where an endpoint lives is known before anybody asks: every endpoint of the network
// has a static FDB entry and a permanent neighbour on every host that takes part, so
// that the first packet needs no lookup and ARP and ND never enter the tunnel. What has
// no entry, broadcast and multicast go to all hosts of the network.
//
// The gateway has one address on all hosts and a MAC of each host's own. A host has an
// address of its own besides, taken with its first endpoint, by which it reaches every
// container.
//
// What it does not do: it encrypts nothing, it gives no address (see package ipam), and
// it neither makes the network on other hosts nor knows its name (see package netsync).
package overlay
