// Package ownership says which host of a cluster may hand out which address.
//
// The unit of ownership is the address. One record of the store covers a chunk of
// 64 consecutive addresses and says for each who owns it. A [Pool] is what one
// host knows and wants of one subnet; it is a value machine: calls say what
// happened, [Pool.Tasks] says what to do next, and whoever drives it does that
// and reports back.
//
//	p := ownership.NewPool(ownership.Config{Me: id, Prefix: "own/" + uuid + "/", Subnet: subnet}, entries)
//	p.Reset(snapshot.KVs, snapshot.Rev)              // what the store says
//	p.Fetch(rng, n)                                  // wish for more addresses
//	for _, t := range p.Tasks() {
//		switch {
//		case t.Entry != nil: …write it to the journal…; p.Wrote(t)
//		case t.Txn != nil:   res, err := …commit it…;   p.Committed(t, res, err)
//		}
//	}
//	p.Avail(a)                                       // may be handed out here
//
// # Orders
//
// A host takes an address in the order store, journal, and gives it in the order
// journal (leaving, durable), store. So what a journal owns the store says too,
// at every moment and after a crash at any of them.
//
// Every change is one transaction that compares the mod revision of the chunk's
// record. Values repeat, revisions do not, and a record is never deleted while
// its pool lives, so a transaction that comes late finds another revision and
// does nothing. When the outcome of one is unknown, the chunk is unsure: the
// record is written again as it is, by a transaction too, after which the late
// one cannot happen. Reading would not do: what was read may change after it.
//
// # Asks
//
// An address that another host owns is asked for by a record that only its owner
// watches ([Ask]). The owner grants by one transaction that changes the chunk and
// deletes the ask; the asker finds the address to be its own like any other.
//
// # What the package does not do
//
// It does no I/O, has no lock, clock or goroutine, and does not know what an
// address is used for, only whether it is in use here. The fence around every
// transaction (the cluster's record, this host's incarnation, the life of the
// pool) is put there by the driver of the machine.
package ownership
