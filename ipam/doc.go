// Package ipam is Docker's IPAM driver: pools of addresses, and which address of
// a pool is in use.
//
//	m, err := ipam.New(ipam.Config{Journal: j, Seed: hostUUID, Routes: onLink})
//	pool, err := m.RequestPool(ctx, ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: subnet})
//	addr, err := m.RequestAddress(ctx, ipam.AddressRequest{PoolID: pool.ID})
//	err = m.ReleaseAddress(ctx, pool.ID, addr.Addr())
//	err = m.ReleasePool(ctx, pool.ID)
//
// [NewWire] puts it behind the plugin socket.
//
// # Books and tokens
//
// A book says which addresses of a subnet are in use. It is keyed by address
// space, domain and subnet. Every RequestPool returns a new PoolID, which ends in
// a token that is never used again; an address belongs to the token that asked
// for it, and a release acts on its own token only. A late release, or one for
// something that another network got since, does nothing and succeeds.
//
// # Choice of an address
//
// A dynamic address comes from the pool's range: first one that was not used
// lately, then the one that was freed longest ago. That is an order, not a ban: a
// small pool is used to its last address. An explicit address may lie anywhere in
// the subnet and skips the order, and so does a container name that asks again
// while its last address is free. A book remembers the last 1,024 freed addresses
// with their names.
//
// # Promises
//
// Every answer, that to a release too, is given when it is durable in the
// journal. A crash leaves an unanswered request either done or not done; what it
// leaks is found by [IPAM.CollectLeaks]. When a write fails or its outcome is
// unknown, the addresses that it touched stay out of use, and the next call
// repairs the journal before it does anything else.
//
// # Several hosts
//
// With Config.Cluster the pools of the local space, but for domain host, belong to
// all hosts of the cluster. Each host owns addresses of them and hands out only
// those; [IPAM.Run] fetches more ahead of need and gives back what is too many.
// While the store is away everything goes on but new pools and addresses that this
// host does not own; these fail at once with [ErrStore]. A request may wait for the
// other hosts: 5 s for a pool or a gateway, 2.5 s for an address that another host
// owns, 2 s for any address when this host owns none. The gateway of a pool is the
// same on all hosts.
//
// A host that was removed while it lived, or is a copy of another one, may have
// containers on addresses of others. [IPAM.Conflicts] tells them as soon as the store
// was seen, and Config.OnConflict when they change: they belong off the network.
//
// # Other machines
//
// With Config.Prober the addresses of networks on a line that other machines use too are
// asked for there before they are given, and what somebody answers for is left out; see
// [PoolView].Foreigners. What will be given next is probed ahead of need and again every 45
// seconds, so that a request meets an address of which a probe not older than a minute
// has said that it is nobody's, and waits for nothing. Where machines have 128 addresses in a
// row only requests look further: something may answer for all. Only what is asked for by itself, or
// by its name, may have to wait for a probe, and who comes in a crowd: some half a second,
// while probes go well 4.5 s at most, and else 2 s, after which it is refused. While the line
// is down or gone ([ErrNoLine]) addresses are given all the same, and probed as soon as that can
// be. What was given is asked for once more a minute later, and what is in use when [IPAM.Run]
// begins; a machine that has one too is told in the log and shown.
//
// # What the package does not do
//
// It knows no network driver, and never decides that an address is free because time
// passed.
package ipam
