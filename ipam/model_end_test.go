package ipam

import (
	"slices"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
)

// end heals everything and looks whether all addresses are there again.
func (w *world) end() {
	w.n = -1
	for len(w.msgs) > 0 {
		w.deliver()
	}
	w.check()
	w.calm = true
	w.logf("the end: links heal")
	for i, h := range w.hosts {
		h.link, h.looked = true, false
		if !h.up && w.themes.removals && w.d.one(2) && i > 0 {
			continue // it is dead
		}
		h.start()
	}
	for round := 0; round < 2 || !w.settled(); round++ {
		if round == 40 {
			w.fail("the hosts do not settle")
		}
		w.operate()
		for _, h := range w.hosts {
			h.heal()
		}
		w.check()
	}
	w.checkStore()
	w.checkConflicts()
	w.exhaust()
}

// operate is the operator at the end: recovers, and removes who will not come back.
func (w *world) operate() {
	if r := w.record(); r.Phase == cluster.PhaseFrozen || r.UUID == "" && w.life > 0 {
		w.recoverNow()
	}
	if r := w.record(); r.Phase == cluster.PhaseOK || r.Phase == cluster.PhaseRecovering {
		for _, id := range w.stale() {
			w.bury(id, true)
		}
	}
}

// stale are ids that no living host has, and those of hosts that stopped.
func (w *world) stale() []ownership.Host {
	living := map[ownership.Host]bool{}
	for _, h := range w.hosts {
		if h.up && h.standing != cluster.Stopped {
			living[h.id.ID] = true
		}
	}
	var out []ownership.Host
	for id := range w.by {
		if !living[id] && (w.st.Get("self/"+string(id)).Rev != 0 || slices.Contains(w.record().Waits, id)) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// heal is a host on a good day.
func (h *mhost) heal() {
	if !h.up {
		return
	}
	h.flush(len(h.queue))
	for len(h.reqs) > 0 && !h.reqs[0].held {
		h.finish(h.reqs[0])
	}
	if !h.fresh() {
		h.look()
	}
	for i, sh := range h.shares {
		if sh != nil {
			sh.own.Kick()
			h.watch(sh)
			h.collect(i)
		}
	}
	h.sweep()
	h.answerAsks()
	h.plan()
	h.plan()
	h.tidy()
}

// settled says that nothing is left to do.
func (w *world) settled() bool {
	if w.record().Phase != cluster.PhaseOK || w.st.Len() > 0 && len(w.st.List("ask/").KVs) > 0 {
		return false
	}
	for _, h := range w.hosts {
		if !h.up {
			continue
		}
		if h.standing != cluster.Member || h.acting || len(h.queue) > 0 || !h.looked {
			return false
		}
		for _, sh := range h.shares {
			if sh != nil && (!sh.own.Settled() || sh.rejoin || sh.closing) {
				return false
			}
		}
	}
	return true
}

// checkStore looks for what no living host knows.
func (w *world) checkStore() {
	living := map[ownership.Host]*mhost{}
	for _, h := range w.hosts {
		if h.up {
			living[h.id.ID] = h
		}
	}
	for _, kv := range w.st.List("own/").KVs {
		rec := w.owners(kv)
		for id, m := range rec.Owned {
			if living[id] == nil {
				w.fail("%s: %v leaked to %s, which is gone", kv.Key, places(m), id)
			}
		}
		for bit, s := range rec.Shared {
			for _, id := range s.By {
				if living[id] == nil {
					w.fail("%s: %v leaked to %s, which is gone", kv.Key, places(bit), id)
				}
			}
		}
	}
}

// checkConflicts compares what each host keeps off the network with the owners of its
// containers' addresses, when nothing is left to do.
func (w *world) checkConflicts() {
	for _, h := range w.hosts {
		for i, sh := range h.shares {
			if !h.up || sh == nil {
				continue
			}
			for a := range h.engine[i] {
				mine := w.ownersOf(sh.uuid, a).Owned[h.id.ID]&ownership.Bit(a) != 0
				if off := sh.off(a); off == mine {
					w.fail("%s is an endpoint's on host %d: its own %v, off the network %v", a, h.n, mine, off)
				}
			}
		}
	}
}

// exhaust hands out every address of a subnet and counts.
func (w *world) exhaust() {
	i := w.d.n(len(w.defs))
	if w.defs[i].size > 100 && !w.d.one(12) || !w.d.one(2) {
		return
	}
	var in []*mhost
	for _, h := range w.hosts {
		if h.up && h.shares[i] != nil {
			in = append(in, h)
		}
	}
	if len(in) == 0 {
		return
	}
	for quiet := 0; quiet < 4; quiet++ {
		out, shared := w.handedOut(i)
		for _, h := range in {
			for h.takeOne(i) {
				quiet = 0
			}
		}
		for _, h := range in {
			h.heal()
		}
		if out+shared == w.defs[i].size {
			break // and nobody got one more
		}
	}
	w.check()
	if out, shared := w.handedOut(i); out+shared != w.defs[i].size {
		w.fail("%v has %d addresses; %d are handed out and %d shared", w.defs[i].subnet, w.defs[i].size, out, shared)
	}
}

// handedOut counts the addresses of a subnet that containers have, and those that hosts
// share.
func (w *world) handedOut(i int) (out, shared int) {
	for _, h := range w.hosts {
		if h.up {
			for a := range h.engine[i] {
				if !h.conflict[i][a] {
					out++
				}
			}
		}
	}
	p, _ := w.pool(i)
	for kv := range w.st.All(cluster.OwnersPrefix(p.UUID)) {
		shared += len(w.owners(kv).Shared)
	}
	return out, shared
}

// takeOne answers one dynamic request, however long it takes.
func (h *mhost) takeOne(i int) bool {
	before := len(h.engine[i])
	h.request(i, reqDynamic)
	for range 4 {
		if len(h.reqs) == 0 {
			break
		}
		if !h.looked {
			h.look()
		}
		h.watchAll()
		h.kick()
		h.plan()
		for _, o := range h.w.hosts {
			if o.up && o != h {
				o.answerAsks()
				o.plan()
			}
		}
		h.watchAll()
		h.poll()
	}
	for len(h.reqs) > 0 {
		h.finish(h.reqs[0])
	}
	return len(h.engine[i]) > before
}

func (h *mhost) watchAll() {
	for _, sh := range h.shares {
		if sh != nil {
			h.watch(sh)
		}
	}
}
