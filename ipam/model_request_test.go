package ipam

import (
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// What is asked for.
const (
	reqDynamic = iota
	reqExplicit
	reqGateway
)

// mreq is a request that was not answered yet.
type mreq struct {
	i      int
	kind   int
	rng    netip.Prefix
	addr   netip.Addr
	name   string
	id     ownership.Host // this host's, when it came
	held   bool           // a journal write is on its way
	gaveUp bool
	shared bool
	ask    string
	nobody bool
}

// request begins a request and goes as far as it can.
func (h *mhost) request(i, kind int) {
	if !h.up || h.shares[i] == nil || h.shares[i].closing || len(h.reqs) >= 3 || !h.standing.Allocates() {
		return
	}
	f := h.w.defs[i]
	r := &mreq{i: i, kind: kind, rng: f.subnet, id: h.id.ID, name: pickOf(&h.w.d, []string{"", "", "a", "b"})}
	switch {
	case kind == reqExplicit:
		r.addr = h.anAddress(i)
	case kind == reqGateway && (h.gateway[i].IsValid() || slices.ContainsFunc(h.reqs, func(r *mreq) bool { return r.kind == reqGateway })):
		return
	case kind == reqGateway && h.w.d.one(4):
		r.addr = h.anAddress(i)
	case kind == reqDynamic && !h.w.calm && h.w.d.one(6):
		r.rng = netip.PrefixFrom(f.subnet.Addr(), f.subnet.Bits()+1)
	}
	if r.addr.IsValid() && slices.Contains(reservedOf(f.subnet), r.addr) {
		return
	}
	h.reqs = append(h.reqs, r)
	h.progress(r)
	h.plan()
	if slices.Contains(h.reqs, r) {
		h.progress(r)
	}
}

// flap gives free addresses away over a bad link and wants one of them back.
func (h *mhost) flap(i int) {
	if !h.up || h.shares[i] == nil || h.standing != cluster.Member {
		return
	}
	lie := h.w.lie
	h.w.lie = 2
	h.trim(i)
	h.plan()
	h.w.lie = lie
	if h.link {
		// A watch that was cut tells everything anew, also what is not new.
		h.shares[i].watching = h.shares[i].watching && h.w.d.one(2)
		h.watch(h.shares[i])
	}
	if h.w.d.one(2) {
		h.kick()
		h.plan()
	}
	h.request(i, reqExplicit)
	h.plan()
	h.poll()
}

// anAddress chooses one that is likely to be contended.
func (h *mhost) anAddress(i int) netip.Addr {
	sh := h.shares[i]
	switch h.w.d.n(4) {
	case 0, 1: // one that is leaving
		s := h.disk.shares[i]
		for _, first := range sorted(s.entries) {
			if l := ownership.Addrs(first, s.entries[first].Leaving); len(l) > 0 {
				return pickOf(&h.w.d, l)
			}
		}
	case 2: // one of another host
		for _, o := range h.w.hosts {
			if s := o.disk.shares[i]; o != h && s != nil && h.w.d.one(2) {
				for _, first := range sorted(s.entries) {
					if l := ownership.Addrs(first, s.entries[first].Own); len(l) > 0 {
						return pickOf(&h.w.d, l)
					}
				}
			}
		}
	}
	return h.w.defs[i].addr(h.w.d.n(min(int(sizeOf(sh.book.subnet)), 256)))
}

// progress goes on with a request as far as it can.
func (h *mhost) progress(r *mreq) {
	sh := h.shares[r.i]
	switch {
	case r.held:
	case sh == nil || r.id != h.id.ID || !h.standing.Allocates():
		h.finish(r)
	case r.kind == reqDynamic:
		h.dynamic(r, sh)
	case r.kind == reqExplicit:
		h.explicit(r, sh)
	default:
		h.shareGateway(r, sh)
	}
}

func (h *mhost) dynamic(r *mreq, sh *mshare) {
	if a, ok := sh.book.pick(r.rng, r.name); ok {
		h.hold(r, sh, a)
		return
	}
	if sh.own.Free(r.rng) > 0 {
		h.w.fail("host %d has a free address of %v and does not answer", h.n, r.rng)
	}
	switch {
	case h.standing != cluster.Member || sh.rejoin:
		h.finish(r)
	case sh.own.Fetching():
	case sh.own.Fetch(r.rng, sh.own.Batch(r.rng, len(sh.pool.Members)), len(sh.pool.Members)) > 0:
		h.w.count("fetch")
	case r.ask == "":
		h.askAny(r, sh)
	}
}

// askAny asks another owner for any address.
func (h *mhost) askAny(r *mreq, sh *mshare) {
	owners := sh.own.Owners(r.rng)
	delete(owners, h.id.ID)
	if len(owners) == 0 {
		h.w.count("exhausted")
		h.finish(r)
		return
	}
	var list []ownership.Host
	for o := range owners {
		list = append(list, o)
	}
	slices.Sort(list)
	h.ask(r, sh, pickOf(&h.w.d, list))
}

func (h *mhost) explicit(r *mreq, sh *mshare) {
	switch {
	case sh.book.held[r.addr] != nil:
		h.finish(r)
	case sh.own.Avail(r.addr):
		h.hold(r, sh, r.addr)
	case h.standing != cluster.Member || sh.rejoin:
		h.finish(r)
	case r.ask != "":
	case sh.own.Want(r.addr):
		if !r.nobody {
			h.w.count("explicit from nobody")
			for _, m := range h.w.ownersOf(sh.uuid, r.addr).Dead {
				if m&ownership.Bit(r.addr) != 0 {
					h.w.count("dead address taken")
				}
			}
		}
		r.nobody = true
	default:
		owner, shared := sh.own.Owner(r.addr)
		if shared || owner == h.id.ID || owner == "" {
			return
		}
		h.ask(r, sh, owner)
	}
}

// ask puts the record by which an owner is asked.
func (h *mhost) ask(r *mreq, sh *mshare, owner ownership.Host) {
	r.ask = "ask/" + string(owner) + "/" + h.w.unique("nonce")
	a := ownership.Ask{From: h.id.ID, Pool: cluster.OwnersPrefix(sh.uuid), Address: r.addr}
	if !r.addr.IsValid() {
		a.Range = r.rng
	}
	h.w.count("ask")
	h.logf("asks %s for %v", owner, r.addr)
	txn := h.fenced(store.Txn{Then: []store.Op{store.Put(r.ask, a.Encode())}})
	h.w.commit(h, "ask", txn, func(res store.Result, err error) {
		if err == nil && !res.OK {
			h.looked = false
			h.finish(r)
		}
	})
}

// shareGateway makes an address the gateway of this host's network.
func (h *mhost) shareGateway(r *mreq, sh *mshare) {
	if !r.shared {
		if h.standing != cluster.Member || !sh.own.Synced() || sh.rejoin {
			h.finish(r)
			return
		}
		if !r.addr.IsValid() {
			r.addr = h.chooseGateway(sh)
		}
		if !r.addr.IsValid() || sh.book.held[r.addr] != nil {
			h.finish(r)
			return
		}
		r.shared = true
		sh.own.Share(r.addr, string(KindGateway), true)
	}
	if sh.own.Shares(r.addr) {
		h.hold(r, sh, r.addr)
	}
}

// chooseGateway is the one that the cluster has, or the lowest free address.
func (h *mhost) chooseGateway(sh *mshare) netip.Addr {
	if a, ok := sh.own.SharedKind(string(KindGateway)); ok {
		return a
	}
	f := h.w.defs[sh.i]
	for n := range min(int(sizeOf(f.subnet)), 256) {
		a := f.addr(n)
		owner, shared := sh.own.Owner(a)
		if owner == "" && !shared && !slices.Contains(reservedOf(f.subnet), a) && sh.book.held[a] == nil {
			return a
		}
	}
	return netip.Addr{}
}

// hold takes an address into use; the request is answered when that is durable.
func (h *mhost) hold(r *mreq, sh *mshare, a netip.Addr) {
	kind := KindEndpoint
	if r.kind == reqGateway {
		kind = KindGateway
	}
	hd := &holding{kind: kind, name: r.name, busy: make(chan struct{})}
	sh.book.hold(a, hd)
	r.held = true
	h.write(func(d *disk) {
		if s := d.shares[r.i]; s != nil {
			s.held[a] = diskHeld{kind, r.name}
			delete(s.freed, a)
		}
	}, func() {
		hd.busy = nil
		switch {
		case r.id != h.id.ID: // a conflict by now
		case r.gaveUp:
			h.w.count("abandoned in the journal")
			h.free(sh, a)
		default:
			h.answer(r, sh, a)
		}
		h.finish(r)
	})
}

// answer gives an address to the engine.
func (h *mhost) answer(r *mreq, sh *mshare, a netip.Addr) {
	h.logf("answers %s", a)
	switch r.kind {
	case reqGateway:
		h.w.count("answered gateway")
		h.gateway[r.i] = a
		return
	case reqDynamic:
		h.w.count("answered dynamic")
	default:
		h.w.count("answered explicit")
	}
	switch {
	case !h.looked && h.standing == cluster.Apart:
		h.w.count("answered before the store was seen")
	case !h.link:
		h.w.count("answered while cut off")
	}
	h.engine[r.i][a] = r.name
}

// finish ends a request. Its ask is deleted; what arrives later is a free address.
func (h *mhost) finish(r *mreq) {
	if !slices.Contains(h.reqs, r) {
		return
	}
	h.reqs = slices.DeleteFunc(h.reqs, func(x *mreq) bool { return x == r })
	if r.ask != "" {
		h.w.commit(h, "delete of an ask", store.Txn{Then: []store.Op{store.Delete(r.ask)}}, func(store.Result, error) {})
	}
	if sh := h.shares[r.i]; r.shared && !r.held && sh != nil && r.id == h.id.ID {
		sh.own.Share(r.addr, string(KindGateway), false)
	}
}

// poll looks at what requests wait for.
func (h *mhost) poll() {
	if !h.up {
		return
	}
	h.plan()
	for _, r := range slices.Clone(h.reqs) {
		if r.ask != "" && h.link {
			if kv := h.w.st.Get(r.ask); kv.Rev != 0 {
				a, err := ownership.DecodeAsk(kv)
				must(err)
				if a.Refused != "" {
					h.w.count("ask refused")
					h.finish(r)
					continue
				}
			}
		}
		h.progress(r)
	}
	h.plan()
}

// timeout ends the oldest request.
func (h *mhost) timeout() {
	if len(h.reqs) == 0 {
		return
	}
	h.w.count("request timed out")
	r := h.reqs[0]
	h.logf("a request for %v times out", r.addr)
	if r.held {
		r.gaveUp = true
		return
	}
	h.finish(r)
}

// releaseAny releases an address of a container, or the gateway.
func (h *mhost) releaseAny(i int) {
	if !h.up || h.shares[i] == nil {
		return
	}
	sh := h.shares[i]
	a := h.gateway[i]
	if len(h.engine[i]) > 0 && (!a.IsValid() || !h.w.d.one(6)) {
		a = pickOf(&h.w.d, sorted(h.engine[i]))
	}
	if !a.IsValid() || sh.book.held[a] == nil || sh.book.held[a].busy != nil {
		return
	}
	h.logf("releases %s", a)
	delete(h.engine[i], a)
	delete(h.conflict[i], a)
	delete(h.off[i], a)
	if a == h.gateway[i] {
		h.gateway[i] = netip.Addr{}
	}
	h.free(sh, a)
	h.plan()
}

// free releases an address that is held.
func (h *mhost) free(sh *mshare, a netip.Addr) {
	hd := sh.book.held[a]
	hd.busy = make(chan struct{})
	f := sh.book.nextFreed(a, hd.name)
	h.write(func(d *disk) {
		if s := d.shares[sh.i]; s != nil {
			delete(s.held, a)
			s.freed[a] = f
		}
	}, func() {
		if hd.kind == KindGateway {
			sh.book.forget(a)
			return
		}
		sh.book.remember(f)
	})
}

// collect frees what is in use in the journal and nowhere else.
func (h *mhost) collect(i int) {
	if !h.up || h.shares[i] == nil {
		return
	}
	sh := h.shares[i]
	for _, a := range sorted(sh.book.held) {
		hd := sh.book.held[a]
		if _, ok := h.engine[i][a]; ok || h.gateway[i] == a || hd == nil || hd.busy != nil {
			continue
		}
		h.w.count("leak collected")
		h.logf("collects %s", a)
		h.free(sh, a)
	}
}

// answerAsks answers what other hosts ask.
func (h *mhost) answerAsks() {
	if !h.up || !h.link || !h.looked {
		return
	}
	for _, kv := range h.w.st.List("ask/" + string(h.id.ID) + "/").KVs {
		a, err := ownership.DecodeAsk(kv)
		must(err)
		if a.Refused != "" {
			continue
		}
		why := "one of the two hosts has no network on this pool"
		for _, sh := range h.shares {
			if sh != nil && cluster.OwnersPrefix(sh.uuid) == a.Pool && slices.Contains(sh.pool.Members, a.From) {
				why = sh.own.Answer(a)
			}
		}
		h.logf("answers %s: %q", kv.Key, why)
		if why == "" {
			h.w.count("ask granted")
			continue
		}
		h.w.commit(h, "refusal", ownership.Refuse(a, why), func(store.Result, error) {})
	}
	h.plan()
}

// sweep deletes asks of this host for which nobody waits: those of an earlier run,
// and those whose record came late.
func (h *mhost) sweep() {
	if !h.up || !h.link || h.standing != cluster.Member {
		return
	}
	for _, kv := range h.w.st.List("ask/").KVs {
		a, err := ownership.DecodeAsk(kv)
		must(err)
		if a.From == h.id.ID && !slices.ContainsFunc(h.reqs, func(r *mreq) bool { return r.ask == kv.Key }) {
			h.w.count("ask swept")
			h.w.commit(h, "sweep", store.Txn{Then: []store.Op{store.Delete(kv.Key)}}, func(store.Result, error) {})
		}
	}
}

// checkFree fails the schedule if a free address that this host owns would not be
// handed out.
func (h *mhost) checkFree() {
	if !h.up || !h.standing.Allocates() {
		return
	}
	for _, sh := range h.shares {
		if sh == nil {
			continue
		}
		free := sh.own.Free(sh.book.subnet)
		a, ok := sh.book.pick(sh.book.subnet, "")
		if ok != (free > 0) {
			h.w.fail("host %d has %d free addresses of %v and picks %v", h.n, free, sh.book.subnet, a)
		}
		if ok && sh.book.held[a] != nil {
			h.w.fail("host %d would hand out %s twice", h.n, a)
		}
	}
}
