// Package directory is what the hosts of a cluster know in common about networks:
// which there are, which host has them, and which endpoints live where.
//
//	d := directory.New(directory.Config{Cluster: c, OnChange: wake})
//	go d.Run(ctx)
//	n, err := d.Found(ctx, directory.Network{UUID: id, Mode: "overlay", Subnets: …})  // waits for the store
//	d.Attend(n.UUID)                       // this host programs the network
//	d.Publish(n.UUID, directory.Endpoint{ID: ep, MAC: mac, Addrs: addrs})
//	for _, e := range d.Endpoints(n.UUID) { … e.Host, e.VTEP … }
//
// # Records
//
// Below the prefix of WEFT_STORE; values are JSON with a version "v".
//
//	net/UUID                  Network: what a network is, and the hosts that have it
//	name/NAME                 the network of this name
//	vni/NUMBER                the network of this VXLAN identifier
//	ep/UUID/HOST/ENDPOINT     Endpoint: only HOST writes and deletes it
//
// A network lives as long as a host has it. The last host that leaves deletes it with
// its name and number. Removed everywhere by an operator, it loses its name at once and
// waits, as a tombstone, for the hosts that are away: each takes its endpoints down
// before it leaves.
//
// # Endpoints
//
// They are levels, not events: the directory compares what this host wants to be known
// with what the store says, and writes the difference. So a write that was lost, that
// came late, or that an older run of this host made, is mended by the next look. Where
// two hosts name one address, the later record counts.
//
// # After a start without the store
//
// The journal remembers of each attended network where its other hosts were, which is
// enough to send frames: [Directory.Remembered]; and for names what their endpoints were
// called, and the addresses: [Directory.LastKnown], [Directory.AsOf]. The first look at the
// store takes the place of both.
//
// # What the package does not do
//
// It programs nothing into a kernel, asks no engine, and hands out no address. Nothing
// waits for the store but [Directory.Found], [Directory.Claim], [Directory.Join],
// [Directory.Lookup] and the operator's [Directory.Remove], as long as their contexts say.
package directory
