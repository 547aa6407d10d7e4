// Package parented is what the kinds have in common whose containers share the line of a
// device of the host's: macvlan and ipvlan.
//
//	type Kind struct{ *parented.Kind }
//	k := parented.New(parented.Config{Kernel: k, Later: later, Parents: parents, Addresses: ipam, …}, parented.Sort{…})
//
// Where a network's links go is decided on each host by itself (see [Place]). Where the user
// named a device it stays that name's; where he said by what it is known, mac: or route:, the
// network follows, but never away from its containers (see follow.go). Sub-interfaces are made when the first network needs them and go
// with the last one, whatever its kind: all kinds of a host share one [Parents].
//
// The kernel keeps a parent and what is on it apart. With host_access=true the host has a
// device of its own beside its containers, one for each network, and both sides are told
// who has which address; see access.go.
//
// It does not route, translate or publish: containers are machines on the line, and what
// filters there is the line's affair.
package parented
