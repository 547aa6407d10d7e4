// Package cluster is this host among the others: who it is, what it may do, which
// hosts and pools there are.
//
//	c, err := cluster.New(cluster.Config{Store: s, Journal: j, Name: hostname, OnChange: poke})
//	go c.Run(ctx)
//	pool, err := c.Join(ctx, "cluster", subnet)          // for RequestPool
//	res, err := c.Commit(ctx, pool.Ref(), txn)            // fenced: only while this host may
//	v := c.Verdict()                                      // and why not
//
// # Records
//
// All keys are below the prefix of WEFT_STORE ("weft/" by default); values are
// JSON with a version "v". A record of a newer version is never changed.
//
//	cluster                  Record: UUID, epoch, phase
//	self/HOST                Self: the valid run of a host; the tombstone of a removed one
//	hosts/HOST               Host: name, address, routes
//	alive/HOST               on a lease: the host is connected
//	back/EPOCH/HOST          the host has told a restored store what it owns
//	index                    changes with the set of pools
//	pools/DOMAIN/SUBNET      Pool: UUID and member hosts
//	own/POOL-UUID/ADDRESS    ownership.Record: who owns 64 addresses
//	ask/OWNER/NONCE          ownership.Ask: one host wants an address of another
//	reach/HOST/NONCE         who still reaches a host that is to be removed?
//	reach/HOST/NONCE/BY      one host's answer
//
// # Standing
//
// [Judge] says from one look at the store and from the journal's [Identity] what a
// host may do; it is pure. Every change of an owner compares, besides its own
// record, the revisions of cluster and self/HOST: so nothing that was sent before a
// freeze, a recovery, a removal or by an older run of a host can happen after it.
//
// Leases carry liveness only: a host whose lease ran out loses nothing but the
// right to be asked for addresses.
//
// # What the package does not do
//
// It hands out no addresses, waits in no call longer than its context says, and
// never merges two stores.
package cluster
