package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// disk is what is durable of a host.
type disk struct {
	ident  cluster.Identity
	shares map[int]*diskShare // by def
}

type diskShare struct {
	uuid    string         // of the cluster's pool
	by      ownership.Host // the id that was made a member
	entries map[netip.Addr]ownership.Entry
	held    map[netip.Addr]diskHeld
	freed   map[netip.Addr]freed
}

type diskHeld struct {
	kind Kind
	name string
}

func newDiskShare(uuid string, by ownership.Host) *diskShare {
	return &diskShare{uuid, by, map[netip.Addr]ownership.Entry{}, map[netip.Addr]diskHeld{}, map[netip.Addr]freed{}}
}

func (d disk) clone() disk {
	out := disk{ident: d.ident, shares: map[int]*diskShare{}}
	out.ident.Known, out.ident.Removed = slices.Clone(d.ident.Known), slices.Clone(d.ident.Removed)
	for i, s := range d.shares {
		out.shares[i] = &diskShare{s.uuid, s.by, maps.Clone(s.entries), maps.Clone(s.held), maps.Clone(s.freed)}
	}
	return out
}

// mwrite is a write on its way to the disk.
type mwrite struct {
	apply func(*disk)
	done  func()
}

// mhost is a host: its disk, its containers, and the process while it is up.
type mhost struct {
	w    *world
	n    int
	hw   int // which machine it is
	link bool

	disk disk
	old  *disk // a backup of it
	// What the engine has: names of the containers by address, and the gateway of
	// its network. Those in conflict belong to an id that this host gave up.
	engine   []map[netip.Addr]string
	conflict []map[netip.Addr]bool
	off      []map[netip.Addr]bool // which of them were taken off the network
	gateway  []netip.Addr
	rolled   bool // the disk was rolled back and the id not given up yet

	up  bool
	run int
	// Of the process.
	queue     []*mwrite
	id        cluster.Identity
	rev       int64 // the highest revision seen
	standing  cluster.Standing
	sight     cluster.Sight
	looked    bool
	confirmed bool
	returned  int
	suspicion string
	acting    bool
	telling   bool
	shares    []*mshare // by def
	reqs      []*mreq
}

// mshare is a host's part of a subnet.
type mshare struct {
	i         int
	uuid      string
	created   int64
	pool      cluster.Pool // as seen last, with its revision
	poolRev   int64
	book      *book
	own       *ownership.Pool
	recovered int // the epoch of the recovery in which the store is told
	rejoin    bool
	leaving   bool
	closing   bool
	doubt     bool // a Leave may still happen
	pos       int64
	life      int
	watching  bool
	conflicts conflicts
	looked    int64 // the revision up to which conflicts were looked for
}

func (h *mhost) machine() cluster.Fingerprint {
	return cluster.Fingerprint{Product: fmt.Sprint("machine ", h.hw)}
}

func (h *mhost) logf(format string, args ...any) {
	if h.w.loud {
		h.w.logf("host %d: "+format, append([]any{h.n}, args...)...)
	}
}

func (h *mhost) seen() int64 { return max(h.id.Seen, h.rev) }

// alone guards a callback: it runs only in the same life of the process.
func (h *mhost) alone(fn func()) func() {
	run := h.run
	return func() {
		if h.up && h.run == run {
			fn()
		}
	}
}

// write puts a write behind those before it. Every one takes the highest revision
// seen along.
func (h *mhost) write(apply func(*disk), done func()) {
	seen := h.seen()
	h.queue = append(h.queue, &mwrite{func(d *disk) {
		apply(d)
		d.ident.Seen = max(d.ident.Seen, seen)
	}, h.alone(done)})
	if h.w.calm || !h.w.d.one(5) {
		h.flush(len(h.queue))
	}
}

// flush makes the first n writes durable.
func (h *mhost) flush(n int) {
	for ; n > 0 && len(h.queue) > 0; n-- {
		wr := h.queue[0]
		h.queue = h.queue[1:]
		wr.apply(&h.disk)
		wr.done()
	}
}

// crash ends the process; a part of its writes becomes durable.
func (h *mhost) crash() {
	if !h.up {
		return
	}
	keep := h.w.d.n(len(h.queue) + 1)
	if len(h.queue) > 0 {
		h.w.count("crash with pending writes")
	}
	h.logf("crashes with %d of %d writes durable", keep, len(h.queue))
	for _, wr := range h.queue[:keep] {
		wr.apply(&h.disk)
	}
	h.up, h.queue, h.shares, h.reqs = false, nil, nil, nil
	h.run++
}

// reboot ends the containers of a host that is down.
func (h *mhost) reboot() {
	h.w.count("reboot")
	h.logf("reboots")
	for i := range h.w.defs {
		h.engine[i], h.gateway[i] = map[netip.Addr]string{}, netip.Addr{}
		h.conflict[i], h.off[i] = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	}
}

// start begins a process with what is durable.
func (h *mhost) start() {
	if h.up {
		return
	}
	h.logf("starts")
	if h.w.themes.disks && (h.old == nil || h.old.ident.Nonce == "" || h.w.d.one(2)) {
		h.copyDisk()
	}
	if !h.disk.ident.Machine.Same(h.machine()) {
		h.renewDisk(&h.disk, cluster.Identity{ID: h.w.newID(h), Machine: h.machine()})
	}
	h.up = true
	h.id, h.rev = h.disk.ident, 0
	h.standing, h.sight, h.looked, h.confirmed, h.returned = cluster.Apart, cluster.Sight{}, false, false, 0
	h.suspicion, h.acting, h.telling = "", false, false
	h.shares = make([]*mshare, len(h.w.defs))
	for _, i := range slices.Sorted(maps.Keys(h.disk.shares)) {
		h.load(i).rejoin = true // a new id may have become durable, and no more
	}
	if h.rolled {
		h.look() // see the assumptions
	}
}

// load makes a share of what is durable.
func (h *mhost) load(i int) *mshare {
	s := h.disk.shares[i]
	sh := &mshare{i: i, uuid: s.uuid, book: newBook(h.w.defs[i].subnet), conflicts: conflicts{}}
	h.shares[i] = sh
	h.setOwn(sh, maps.Clone(s.entries))
	for _, a := range sorted(s.held) {
		k := s.held[a]
		sh.book.hold(a, &holding{kind: k.kind, name: k.name})
	}
	for _, a := range sorted(s.freed) {
		sh.book.remember(s.freed[a])
	}
	sh.conflicts.resume(sh.book, noLeaders)
	return sh
}

// noLeaders says that no address of the model is of Swarm's.
func noLeaders(*holding) bool { return false }

func sorted[V any](m map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

func (h *mhost) setOwn(sh *mshare, entries map[netip.Addr]ownership.Entry) {
	subnet := h.w.defs[sh.i].subnet
	sh.own = ownership.NewPool(ownership.Config{
		Me: h.id.ID, Prefix: cluster.OwnersPrefix(sh.uuid), Subnet: subnet, Reserved: reservedOf(subnet),
	}, entries)
	sh.book.own = sh.own
	sh.watching = false
	for _, a := range sorted(sh.book.held) {
		sh.book.use(a, sh.book.held[a], true)
	}
}

// renewDisk gives a disk a new identity that owns nothing; what is in use stays,
// as a conflict.
func (h *mhost) renewDisk(d *disk, id cluster.Identity) {
	h.w.count("new id")
	h.logf("has a new id: %s was %s", id.ID, d.ident.ID)
	d.ident = id
	for _, s := range d.shares {
		s.entries = map[netip.Addr]ownership.Entry{}
	}
	h.rolled = false
	for i := range h.w.defs {
		for a := range h.engine[i] {
			h.conflict[i][a] = true
		}
		if a := h.gateway[i]; a.IsValid() {
			h.conflict[i][a] = true
		}
	}
}

// loseDisk takes the journal of a host away. Its containers are gone, or known
// from the engine and adopted.
func (h *mhost) loseDisk() {
	h.w.count("journal lost")
	h.logf("loses its journal")
	h.crash()
	old := h.disk
	h.old = nil
	h.disk = disk{shares: map[int]*diskShare{}}
	if h.w.d.one(2) {
		h.reboot()
	} else {
		for i, s := range old.shares {
			h.disk.shares[i] = newDiskShare(s.uuid, "")
			for a, name := range h.engine[i] {
				h.disk.shares[i].held[a] = diskHeld{KindEndpoint, name}
			}
			if a := h.gateway[i]; a.IsValid() {
				h.disk.shares[i].held[a] = diskHeld{kind: KindGateway}
			}
		}
	}
	h.renewDisk(&h.disk, cluster.Identity{ID: h.w.newID(h), Machine: h.machine()})
	h.start()
}

// copyDisk is a backup of the journal.
func (h *mhost) copyDisk() {
	d := h.disk.clone()
	h.old = &d
}

func (h *mhost) toggleLink() {
	h.link = !h.link
	h.logf("link %v", h.link)
	if !h.link {
		h.w.count("cut")
	}
}

// work is what happens in the background: a look, the watches, tasks.
func (h *mhost) work() {
	if !h.up {
		return
	}
	if h.link && (!h.fresh() || !h.w.calm && h.w.d.one(2)) {
		h.look()
	}
	for _, sh := range h.shares {
		if sh != nil && h.link && (h.w.calm || h.w.d.n(3) > 0) {
			h.watch(sh)
		}
	}
	for range 1 + h.w.d.n(3) {
		if h.w.d.one(2) {
			h.kick()
		}
		h.plan()
	}
	if h.w.calm || h.w.d.one(4) {
		h.tidy()
	}
}

// fresh says that a member saw the records as they are.
func (h *mhost) fresh() bool {
	return h.looked && h.standing == cluster.Member && h.suspicion == "" &&
		(!h.w.calm || h.sight.Cluster.Rev == h.w.st.Get("cluster").Rev && h.sight.Self.Rev == h.w.st.Get("self/"+string(h.id.ID)).Rev)
}

// look takes a Sight, judges and acts.
func (h *mhost) look() {
	if !h.link || h.acting || !h.up {
		return
	}
	id := h.id
	id.Seen = h.seen() // before the look begins
	s := cluster.Sight{Rev: h.w.st.Rev(), Cluster: h.w.st.Get("cluster"), Self: h.w.st.Get("self/" + string(id.ID))}
	epoch := h.w.record().Epoch
	for kv := range h.w.st.All(fmt.Sprintf("back/%d/", epoch)) {
		s.Back = append(s.Back, ownership.Host(kv.Key[len(fmt.Sprintf("back/%d/", epoch)):]))
	}
	v, err := cluster.Judge(id, s, h.confirmed)
	must(err)
	if v.Standing == cluster.Member && h.suspicion != "" {
		v = cluster.Verdict{Standing: cluster.Freezing, Why: h.suspicion}
	}
	h.suspicion = ""
	if h.standing != v.Standing {
		h.logf("is %s at %d: %s", v.Standing, s.Rev, v.Why)
		if v.Standing == cluster.Stopped {
			h.w.count("stopped")
		}
	}
	h.standing, h.sight, h.looked = v.Standing, s, true
	h.rev = max(h.rev, s.Rev)
	h.act(id, s, v)
}

// act does what follows from a verdict.
func (h *mhost) act(id cluster.Identity, s cluster.Sight, v cluster.Verdict) {
	switch v.Standing {
	case cluster.Founding:
		h.change("found", cluster.Found(h.w.unique("cluster")), nil)
	case cluster.Raising:
		h.raise(id, s)
	case cluster.Member:
		h.remember(id)
	case cluster.Freezing:
		txn, err := cluster.Freeze(id, s, v.Why)
		must(err)
		h.w.count("freeze")
		h.change("freeze", txn, nil)
	case cluster.Recovering:
		if epoch := h.w.record().Epoch; h.returned != epoch {
			h.change("return", cluster.Return(id, "", s), func(store.Result) { h.returned = epoch })
		}
	case cluster.Waiting:
		if h.remember(id) {
			return // a removed host is not waited for
		}
		if txn, ok, err := cluster.Thaw(id, s); err == nil && ok {
			h.change("thaw", txn, func(store.Result) { h.w.count("thaw") })
		}
	case cluster.Removed:
		next := cluster.Identity{ID: h.w.newID(h), Machine: h.machine(), Known: id.Known, Removed: append(slices.Clone(id.Removed), id.ID)}
		h.acting = true
		h.write(func(d *disk) { h.renewDisk(d, next) }, func() {
			h.acting = false
			h.id, h.confirmed, h.rev, h.looked = next, false, 0, false
			h.standing = cluster.Apart
			for _, sh := range h.shares {
				if sh != nil {
					h.setOwn(sh, nil)
					sh.rejoin = true
				}
			}
		})
	}
}

// change commits a transaction of which it is enough that the next look shows what
// happened.
func (h *mhost) change(what string, txn store.Txn, ok func(store.Result)) {
	h.acting = true
	h.w.commit(h, what, txn, func(res store.Result, err error) {
		h.acting, h.looked = false, false
		if err == nil && res.OK && ok != nil {
			ok(res)
		}
	})
}

// keep makes an identity durable and current.
func (h *mhost) keep(id cluster.Identity, then func()) {
	h.acting = true
	h.write(func(d *disk) { d.ident = id }, func() {
		h.acting = false
		h.id = id
		then()
	})
}

// raise makes this run the valid one. A nonce that was tried stays the next one
// until it is known to be valid: its transaction may still happen.
func (h *mhost) raise(id cluster.Identity, s cluster.Sight) {
	behind := id.Epoch
	id, err := cluster.Adopt(id, s)
	must(err)
	if behind > 0 && behind < id.Epoch {
		h.w.count("back, but not kept")
		h.rev = s.Rev
	}
	if id.Next == "" {
		id.Next = h.w.unique("nonce")
	}
	h.keep(id, func() {
		h.change("raise", cluster.Raise(id, "", s), func(store.Result) {
			h.keep(cluster.Raised(id), func() { h.confirmed, h.looked = true, false })
		})
	})
}

// remember keeps which hosts there are.
func (h *mhost) remember(id cluster.Identity) (news bool) {
	id.Known, id.Removed = slices.Clone(id.Known), slices.Clone(id.Removed)
	for kv := range h.w.st.All("self/") {
		if o := ownership.Host(kv.Key[len("self/"):]); o != id.ID {
			news = id.Meets(o, h.w.self(o).Removed) || news
		}
	}
	if news {
		h.keep(id, func() { h.looked = false })
	}
	return news
}

// watch brings the news of a share.
func (h *mhost) watch(sh *mshare) {
	p, kv := h.w.pool(sh.i)
	sh.created, sh.pool = 0, cluster.Pool{}
	if p.UUID == sh.uuid {
		sh.created, sh.pool, sh.poolRev = kv.Created, p, kv.Rev
	}
	prefix := cluster.OwnersPrefix(sh.uuid)
	var u store.Update
	switch {
	case !sh.watching || sh.life != h.w.life || h.w.d.one(10):
		h.w.count("watch cut")
		snap := h.w.st.List(prefix)
		u = store.Update{Reset: true, Rev: snap.Rev, Puts: snap.KVs}
	default:
		u = h.w.st.Since(sh.pos, prefix)
	}
	sh.watching, sh.pos, sh.life = true, u.Rev, h.w.life
	h.rev = max(h.rev, u.Rev)
	if u.Reset {
		sh.looked = 0
		sh.own.Reset(u.Puts, u.Rev)
		return
	}
	for _, kv := range u.Puts {
		sh.own.Observe(kv)
	}
}

func (h *mhost) returning() bool {
	return h.standing == cluster.Recovering && h.returned == h.w.record().Epoch && h.looked
}

// kick lets what failed try again.
func (h *mhost) kick() {
	for _, sh := range h.shares {
		if sh != nil {
			sh.own.Kick()
		}
	}
}

// plan does what can be done now for all shares.
func (h *mhost) plan() {
	if !h.up || h.acting {
		return
	}
	told := h.returning() && !h.telling && !h.untidy()
	for _, sh := range h.shares {
		if sh == nil {
			continue
		}
		h.planShare(sh)
		if !h.up || h.acting {
			return
		}
		told = told && (h.silent(sh) || sh.recovered == h.returned && !sh.rejoin && sh.own.Settled())
	}
	if told {
		h.tell()
	}
}

func (h *mhost) planShare(sh *mshare) {
	mode, returning := h.standing.Mode(), h.returning()
	if returning && sh.recovered != h.returned {
		sh.recovered, sh.rejoin, sh.watching = h.returned, true, false
		sh.own.Forget()
	}
	if sh.rejoin || sh.leaving || mode == ownership.Recovering && !returning {
		mode = ownership.Frozen
	}
	if sh.rejoin && !sh.leaving && (returning && h.tells(sh) || h.standing == cluster.Member) {
		h.rejoin(sh)
	}
	sh.own.SetMode(mode, h.sight.Back)
	h.claimConflicts(sh)
	sh.own.Close(sh.closing)
	for _, t := range sh.own.Tasks() {
		h.do(sh, t)
	}
	switch {
	case mode != ownership.Normal || sh.rejoin:
	case len(sh.own.Lost()) > 0 && h.rolled:
	case len(sh.own.Lost()) > 0:
		h.suspicion = fmt.Sprintf("%v is not in the store", sh.own.Lost()[0])
	case sh.closing && sh.own.Empty() && !sh.leaving:
		h.leavePool(sh)
	}
}

// tells says that a recovering store is told about a share, silent that it is not: see
// their namesakes.
func (h *mhost) tells(sh *mshare) bool {
	return h.disk.shares[sh.i].by == h.id.ID && (sh.own.Tells() || sh.own.Named())
}

func (h *mhost) silent(sh *mshare) bool {
	return h.disk.shares[sh.i].by != h.id.ID || sh.own.Synced() && !h.tells(sh)
}

// forgotten says that the store has this host for a member of a pool of which it knows
// nothing; untidy that there is such a pool.
func (h *mhost) forgotten(i int) bool {
	p, _ := h.w.pool(i)
	return h.shares[i] == nil && h.disk.shares[i] == nil && slices.Contains(p.Members, h.id.ID)
}

func (h *mhost) untidy() bool {
	for i := range h.w.defs {
		if h.forgotten(i) {
			return true
		}
	}
	return false
}

// do does one task.
func (h *mhost) do(sh *mshare, t ownership.Task) {
	own := sh.own
	if t.Entry != nil {
		e := *t.Entry
		id := h.id.ID
		h.logf("journal: of %s own %v leaving %v", t.First, places(e.Own), places(e.Leaving))
		h.write(func(d *disk) {
			s := d.shares[sh.i]
			if s == nil || d.ident.ID != id {
				return
			}
			s.entries[t.First] = e
			if e == (ownership.Entry{}) {
				delete(s.entries, t.First)
			}
		}, func() { own.Wrote(t) })
		return
	}
	if sh.created == 0 || h.standing != cluster.Member && h.standing != cluster.Recovering {
		own.Committed(t, store.Result{}, store.ErrDown)
		return
	}
	key := h.w.defs[sh.i].key
	fence := append(cluster.Fence(h.id.ID, h.sight), store.Lives(key, sh.created))
	if to := t.To(); slices.Contains(sh.pool.Members, to) {
		fence = append(fence, store.Unchanged(key, sh.poolRev))
	} else if to != "" {
		fence = append(fence, store.Unchanged(key, 0)) // it fails, and shows whether the ask is still there
	}
	txn := store.Txn{If: append(slices.Clone(t.Txn.If), fence...), Then: t.Txn.Then}
	h.w.commit(h, "change of "+t.First.String(), txn, func(res store.Result, err error) {
		if err == nil && !res.OK {
			h.looked = false
			if c := t.Txn.If[0]; h.w.st.Get(c.Key).Rev == c.Rev {
				h.w.count("fence failed")
			}
		}
		own.Committed(t, res, err)
	})
}

// places are those of a mask's addresses in their chunk, for the log.
type places ownership.Mask

func (p places) String() string {
	var out []int
	for i := range ownership.Size {
		if p&(1<<i) != 0 {
			out = append(out, i)
		}
	}
	return fmt.Sprint(out)
}

// tell says that every share has told a recovering store.
func (h *mhost) tell() {
	h.telling = true
	id := h.id
	txn, epoch, err := cluster.Back(id, h.sight)
	must(err)
	h.w.commit(h, "back", txn, func(res store.Result, err error) {
		h.telling, h.looked = false, false
		if err != nil || !res.OK || h.acting {
			return
		}
		h.rev = res.Rev
		h.keep(cluster.Returned(id, epoch, res.Rev), func() { h.rev = max(h.id.Seen, res.Rev) })
	})
}

// claimConflicts wishes for addresses that are in use and not this host's, and finds
// those that are another one's.
func (h *mhost) claimConflicts(sh *mshare) {
	foreign, began, _ := sh.conflicts.look(sh.book, noLeaders)
	if sh.watching {
		sh.looked = sh.pos
	}
	for _, a := range began {
		h.w.count("conflict found")
		h.logf("%s is in conflict", a)
	}
	if !sh.own.Synced() || sh.rejoin {
		return
	}
	for _, a := range foreign {
		sh.own.Want(a)
	}
	// Their order does not matter: none of this draws or commits.
	for a := range h.conflict[sh.i] {
		if k := sh.book.held[a]; k != nil && (k.kind == KindGateway && sh.own.Shares(a) || k.kind == KindEndpoint && h.ownsDurably(sh, a)) {
			h.w.count("conflict resolved")
			delete(h.conflict[sh.i], a)
		}
	}
}

// off says that a share keeps an address off the network.
func (sh *mshare) off(a netip.Addr) bool {
	return sh.conflicts[a] != nil && sh.book.foreign(a, noLeaders)
}

func (h *mhost) ownsDurably(sh *mshare, a netip.Addr) bool {
	s := h.disk.shares[sh.i]
	return s != nil && s.entries[ownership.First(a)].Own&ownership.Bit(a) != 0
}

// pools is one look at all pools.
func (h *mhost) pools() cluster.Pools {
	return cluster.Pools{KVs: h.w.st.List("pools/").KVs, Index: h.w.st.Get("index")}
}

func (h *mhost) fenced(txn store.Txn) store.Txn {
	txn.If = append(slices.Clone(txn.If), cluster.Fence(h.id.ID, h.sight)...)
	return txn
}

// join makes a network on a subnet.
func (h *mhost) join(i int) {
	if !h.up || !h.link || h.standing != cluster.Member || h.acting {
		return
	}
	if sh := h.shares[i]; sh != nil {
		sh.closing = false
		return
	}
	if h.disk.shares[i] != nil {
		return
	}
	f := h.w.defs[i]
	txn, p, err := cluster.Join(h.id.ID, f.domain, f.subnet, h.w.unique("pool"), h.pools())
	must(err)
	joined := func() {
		h.logf("joins %v", f.subnet)
		h.acting = true
		id := h.id.ID
		h.write(func(d *disk) { d.shares[i] = newDiskShare(p.UUID, id) }, func() {
			h.acting = false
			h.watch(h.load(i))
		})
	}
	if len(txn.Then) == 0 {
		joined()
		return
	}
	h.acting = true
	h.w.commit(h, "join", h.fenced(txn), func(res store.Result, err error) {
		h.acting, h.looked = false, false
		if err == nil && res.OK {
			joined()
		}
	})
}

// tidy leaves pools of which the store says that this host is a member and of which
// it knows nothing: it left after the backup that was restored, or joined by a
// transaction that came late. What it owns there would be lost.
func (h *mhost) tidy() {
	for i := range h.w.defs {
		p, _ := h.w.pool(i)
		if !h.up || !h.link || h.standing != cluster.Member && !h.returning() || h.acting || !h.forgotten(i) {
			continue
		}
		h.w.count("membership forgotten")
		h.logf("is a member of %v and does not know why", h.w.defs[i].subnet)
		h.acting = true
		id := h.id.ID
		h.write(func(d *disk) { d.shares[i] = newDiskShare(p.UUID, id) }, func() {
			h.acting = false
			sh := h.load(i)
			sh.rejoin, sh.closing = true, true
			h.watch(sh)
		})
	}
}

// leave ends the network on a subnet if nothing uses it.
func (h *mhost) leave(i int) {
	if !h.up || h.shares[i] == nil || len(h.engine[i]) > 0 || h.gateway[i].IsValid() || len(h.reqs) > 0 || len(h.shares[i].book.held) > 0 {
		return
	}
	h.logf("leaves %v", h.w.defs[i].subnet)
	h.shares[i].closing = true
}

// leavePool ends the membership.
func (h *mhost) leavePool(sh *mshare) {
	p, kv := h.w.pool(sh.i)
	if !h.link || h.acting {
		return
	}
	left := func() {
		if !sh.closing { // somebody came back meanwhile
			sh.rejoin = true
			return
		}
		h.w.count("pool left")
		if len(p.Members) == 1 {
			h.w.count("pool deleted")
		}
		h.logf("left %v", h.w.defs[sh.i].subnet)
		h.acting = true
		h.write(func(d *disk) { delete(d.shares, sh.i) }, func() { h.acting, h.shares[sh.i] = false, nil })
	}
	if p.UUID != sh.uuid || !slices.Contains(p.Members, h.id.ID) {
		left()
		return
	}
	txn, err := cluster.Leave(h.id.ID, kv, h.w.st.Get("index"))
	must(err)
	sh.leaving = true
	h.w.commit(h, "leave", h.fenced(txn), func(res store.Result, err error) {
		sh.leaving, h.looked = false, false
		switch {
		case err == nil && res.OK:
			left()
		case errors.Is(err, store.ErrUnknown):
			h.w.count("leave unknown")
			sh.rejoin, sh.doubt = true, true // it may still happen
		}
	})
}

// rejoin tells the store that this host is a member: at a start, in a recovery, with
// a new id, or after a Leave that may still happen.
func (h *mhost) rejoin(sh *mshare) {
	if !h.link || h.acting {
		return
	}
	_, kv := h.w.pool(sh.i)
	f := h.w.defs[sh.i]
	kv.Key = f.key
	p := cluster.Pool{UUID: sh.uuid, Domain: f.domain, Subnet: f.subnet}
	var txn store.Txn
	var err error
	if h.standing == cluster.Recovering {
		txn, err = cluster.Rejoin(h.id.ID, p, kv, h.w.st.Get("index"))
	} else if txn, p, err = cluster.Join(h.id.ID, f.domain, f.subnet, h.w.unique("pool"), h.pools()); len(txn.Then) == 0 && sh.doubt {
		// What was read must not change: the Leave is made impossible.
		txn = store.Txn{If: []store.Cond{store.Unchanged(kv.Key, kv.Rev)}, Then: []store.Op{store.Put(kv.Key, kv.Value)}}
	}
	must(err)
	if len(txn.Then) == 0 {
		h.rejoined(sh, p)
		return
	}
	sh.leaving = true
	h.w.commit(h, "rejoin", h.fenced(txn), func(res store.Result, err error) {
		sh.leaving, h.looked = false, false
		if err == nil && res.OK {
			h.rejoined(sh, p)
		}
	})
}

// rejoined goes on as a member. A new id takes the pool as it finds it.
func (h *mhost) rejoined(sh *mshare, p cluster.Pool) {
	sh.doubt = false
	id := h.id.ID
	if s := h.disk.shares[sh.i]; p.UUID == sh.uuid && s.by == id {
		sh.rejoin = false
		h.watch(sh)
		return
	}
	if len(h.disk.shares[sh.i].entries) > 0 {
		h.w.fail("pool %s of host %d is %s now", sh.uuid, h.n, p.UUID)
	}
	h.acting = true
	h.write(func(d *disk) { d.shares[sh.i].uuid, d.shares[sh.i].by = p.UUID, id }, func() {
		h.acting = false
		sh.uuid, sh.rejoin = p.UUID, false
		h.setOwn(sh, nil)
		h.watch(sh)
	})
}

// trim gives free addresses away.
func (h *mhost) trim(i int) {
	if !h.up || h.shares[i] == nil {
		return
	}
	sh := h.shares[i]
	keep := 2 * sh.own.Batch(h.w.defs[i].subnet, len(sh.pool.Members))
	if h.w.d.one(2) {
		keep = h.w.d.n(3) // a host that is hard up
	}
	if sh.own.Free(h.w.defs[i].subnet) > keep {
		h.w.count("trim")
		sh.own.Trim(h.w.defs[i].subnet, keep, func(a netip.Addr) bool { return !sh.book.touched.has(a) })
	}
	h.plan()
}
