package cluster

import (
	"slices"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// A Pass is what this host may do, as of one look at the store. What is planned under a
// pass is committed under it: nothing of it can happen once the cluster is frozen,
// recovers or goes on after that, or this host has another run or was removed. A pass
// that is taken later than the plan would let through what must not happen any more.
type Pass struct {
	Verdict
	// Me is this host's id.
	Me ownership.Host
	// Back are the hosts that have told a recovering store.
	Back []ownership.Host
	// Epoch is that of the recovery in which the pools may tell the store what they own;
	// 0 if there is none.
	Epoch int

	fence []store.Cond
}

// Pass returns that of the last look.
func (c *Cluster) Pass() Pass {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := Pass{Verdict: c.verdict, Me: c.id.ID, Back: slices.Clone(c.sightSeen.Back), fence: Fence(c.id.ID, c.sightSeen)}
	rec, err := decode[Record](c.sightSeen.Cluster)
	if err == nil && c.verdict.Standing == Recovering && c.returned == rec.Epoch {
		p.Epoch = rec.Epoch
	}
	return p
}

// under puts a transaction behind a pass.
func (p Pass) under(txn store.Txn) store.Txn {
	return store.Txn{If: append(slices.Clone(txn.If), p.fence...), Then: txn.Then}
}
