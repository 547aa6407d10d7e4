package ipam

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// world is everything outside of the hosts' processes.
type world struct {
	t      *rapid.T
	loud   bool // somebody reads the log
	c      *tally
	d      dice
	n      int // of the step
	defs   []def
	themes themes
	lie    int  // once in so many transactions something goes wrong
	calm   bool // nothing goes wrong

	st      *store.Memory
	life    int // of the store: counts restores
	msgs    []*message
	hosts   []*mhost
	backups []*store.Memory
	// gone are ids that an operator removed, by whose host each id was made.
	gone map[ownership.Host]bool
	by   map[ownership.Host]*mhost
	ids  int
	// What was decoded, by where the value is: the store's do not change.
	decoded map[*byte]any
}

// message is a transaction on its way to the store, or its answer on the way back.
type message struct {
	what    string
	txn     store.Txn
	from    *mhost
	run     int
	done    func(store.Result, error) // nil once the host knows, or believes
	applied bool
	res     store.Result
}

// logf tells a step in words, if anybody reads it: rapid plays a schedule that fails once
// more for that.
func (w *world) logf(format string, args ...any) {
	if w.loud {
		w.t.Logf(format, args...)
	}
}

func (w *world) count(kind string) { w.c.n[kind]++ }

// unique returns a new id, nonce or UUID.
func (w *world) unique(prefix string) string {
	w.ids++
	return fmt.Sprintf("%s%d", prefix, w.ids)
}

func (w *world) newID(h *mhost) ownership.Host {
	id := ownership.Host(w.unique(fmt.Sprintf("host%d-", h.n)))
	w.by[id] = h
	return id
}

// apply applies a transaction. A condition whose key goes on behind a zero byte
// compares the value with that instead of the revision: no code does that, but a
// mutant of it.
func (w *world) apply(txn store.Txn) store.Result {
	for i, c := range txn.If {
		key, value, ok := strings.Cut(c.Key, "\x00")
		if !ok {
			continue
		}
		now := w.st.Get(key)
		txn.If = slices.Clone(txn.If)
		txn.If[i] = store.Unchanged(key, -1)
		if string(now.Value) == value {
			txn.If[i].Rev = now.Rev
		}
	}
	return w.st.Apply(txn)
}

// commit sends a transaction of a host. done hears how it ended, now or later,
// unless the host crashes before.
func (w *world) commit(h *mhost, what string, txn store.Txn, done func(store.Result, error)) {
	m := &message{what: what, txn: txn, from: h, run: h.run, done: done}
	switch {
	case !h.link && (w.calm || !w.d.one(4)):
		w.count("down")
		done(store.Result{}, store.ErrDown)
	case !h.link:
		w.unknown(m)
	case w.calm || !w.d.one(w.lie):
		m.res = w.apply(txn)
		w.answer(m)
	default:
		w.mishap(m)
	}
}

// mishap is a transaction with which something goes wrong.
func (w *world) mishap(m *message) {
	switch w.d.n(8) {
	case 0, 1:
		w.msgs = append(w.msgs, m)
		w.logf("   %s: under way", m.what)
	case 2:
		m.res, m.applied = w.apply(m.txn), true
		w.msgs = append(w.msgs, m)
		w.logf("   %s: applied (%v at %d), its answer is under way", m.what, m.res.OK, m.res.Rev)
	case 3:
		w.count("down")
		w.logf("   %s: down", m.what)
		m.done(store.Result{}, store.ErrDown)
	case 4:
		m.res = w.apply(m.txn)
		w.count("answer lost")
		w.logf("   %s: applied (%v at %d), its answer is lost", m.what, m.res.OK, m.res.Rev)
		m.done(store.Result{}, store.ErrUnknown)
	default:
		w.unknown(m)
	}
}

// unknown leaves a transaction under way of which the host knows nothing.
func (w *world) unknown(m *message) {
	w.logf("   %s: outcome unknown, under way", m.what)
	w.msgs = append(w.msgs, m)
	done := m.done
	m.done = nil
	done(store.Result{}, store.ErrUnknown)
}

// answer tells the host.
func (w *world) answer(m *message) {
	if m.done == nil || !m.from.up || m.run != m.from.run {
		return
	}
	done := m.done
	m.done = nil
	if !m.res.OK {
		w.count("refused by the store")
	}
	m.from.rev = max(m.from.rev, m.res.Rev)
	w.logf("   %s: %v at %d", m.what, m.res.OK, m.res.Rev)
	done(m.res, nil)
}

// deliver lets one message arrive, or its answer, or be lost.
func (w *world) deliver() {
	if len(w.msgs) == 0 {
		return
	}
	i := w.d.n(len(w.msgs))
	m := w.msgs[i]
	over := true
	switch k := w.d.n(8); {
	case k == 0:
		w.lose(m)
	case !m.applied:
		m.res, m.applied = w.apply(m.txn), true
		switch {
		case m.run != m.from.run || !m.from.up:
			w.count("applied after the host's crash")
		case m.done == nil:
			w.count("applied after unknown")
		}
		w.logf("%s of host %d arrives late: %v at %d", m.what, m.from.n, m.res.OK, m.res.Rev)
		if over = m.done == nil || w.d.one(2); over {
			w.answer(m)
		}
	default:
		w.count("answer applied late")
		w.answer(m)
	}
	if over {
		w.msgs = slices.DeleteFunc(w.msgs, func(x *message) bool { return x == m })
	}
}

// lose drops a message; the host that waits hears that the outcome is unknown.
func (w *world) lose(m *message) {
	w.count("dropped")
	w.logf("%s of host %d is lost", m.what, m.from.n)
	if m.done != nil && m.from.up && m.run == m.from.run {
		done := m.done
		m.done = nil
		done(store.Result{}, store.ErrUnknown)
	}
}

// record is the cluster's own record.
func (w *world) record() cluster.Record { return parsed[cluster.Record](w, w.st.Get("cluster")) }

func (w *world) self(id ownership.Host) cluster.Self {
	return parsed[cluster.Self](w, w.st.Get("self/"+string(id)))
}

func (w *world) pool(i int) (cluster.Pool, store.KV) {
	kv := w.st.Get(w.defs[i].key)
	return parsed[cluster.Pool](w, kv), kv
}

func parsed[T any](w *world, kv store.KV) T {
	return decoded(w, kv, func(b []byte) (v T, err error) {
		err = json.Unmarshal(b, &v)
		return v, err
	})
}

// owners decodes a record of owners.
func (w *world) owners(kv store.KV) ownership.Record { return decoded(w, kv, ownership.Decode) }

// decoded decodes each value of the store once: the checks look at all of them after every
// step.
func decoded[T any](w *world, kv store.KV, decode func([]byte) (T, error)) T {
	var v T
	if kv.Rev == 0 {
		return v
	}
	at := &kv.Value[0]
	if known, ok := w.decoded[at].(T); ok {
		return known
	}
	v, err := decode(kv.Value)
	if err != nil {
		w.t.Fatalf("a host wrote %s: %v", kv.Value, err)
	}
	w.decoded[at] = v
	return v
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (w *world) ownersOf(uuid string, a netip.Addr) ownership.Record {
	return w.owners(w.st.Get(cluster.OwnersPrefix(uuid) + ownership.First(a).String()))
}

// trusted says that the promises hold for a host: it is not removed, stopped or
// rolled back.
func (w *world) trusted(h *mhost) bool {
	return !h.rolled && !w.gone[h.disk.ident.ID] && h.standing != cluster.Stopped && h.standing != cluster.Removed
}

// told says that the store and a host's journal have to agree.
func (w *world) told(h *mhost) bool {
	r := w.record()
	return w.trusted(h) && r.Phase == cluster.PhaseOK && r.UUID == h.disk.ident.UUID &&
		(h.disk.ident.Epoch == r.Epoch || w.hasBack(r.Epoch, h.disk.ident.ID))
}

func (w *world) hasBack(epoch int, id ownership.Host) bool {
	return w.st.Get(cluster.BackKey(epoch, id)).Rev != 0
}

// check fails the schedule if a promise is broken.
func (w *world) check() {
	for i := range w.defs {
		holders := map[netip.Addr]*mhost{}
		shared := map[netip.Addr]*mhost{}
		for _, h := range w.hosts {
			if !w.trusted(h) {
				continue
			}
			for a := range h.engine[i] {
				if w.excused(h, i, a) {
					continue
				}
				if o := holders[a]; o != nil {
					w.fail("%s of %v has two holders: host %d and host %d", a, w.defs[i].domain, o.n, h.n)
				}
				holders[a] = h
			}
			if a := h.gateway[i]; a.IsValid() && !h.conflict[i][a] {
				shared[a] = h
			}
		}
		for a, h := range shared {
			if o := holders[a]; o != nil {
				w.fail("%s of %v has two holders: it is a gateway on host %d and an endpoint's on host %d", a, w.defs[i].domain, h.n, o.n)
			}
		}
	}
	for _, h := range w.hosts {
		told := w.told(h)
		for i := range w.defs {
			w.checkJournal(h, i, told)
			w.checkOff(h, i)
		}
		h.checkFree()
	}
}

// excused says that a container may have an address that another one has as well: its
// host gave up the id that owned it, and did not see yet whose it is, or knows and has
// taken it off the network.
func (w *world) excused(h *mhost, i int, a netip.Addr) bool {
	return h.conflict[i][a] && (!w.saw(h, i, a) || h.shares[i].off(a))
}

// saw says that a host has seen what the store says of an address, and looked since for
// conflicts.
func (w *world) saw(h *mhost, i int, a netip.Addr) bool {
	if !h.up || h.shares[i] == nil || h.standing != cluster.Member || !w.told(h) {
		return false
	}
	sh := h.shares[i]
	return sh.watching && sh.life == w.life && sh.looked >= w.st.Get(cluster.OwnersPrefix(sh.uuid)+ownership.First(a).String()).Rev
}

// checkOff fails the schedule if a host does not take off the network what it knows to
// be another one's, or puts it back before it owns it.
func (w *world) checkOff(h *mhost, i int) {
	if !h.up || h.shares[i] == nil {
		return
	}
	sh := h.shares[i]
	for a := range h.engine[i] {
		off := sh.off(a)
		if owner, taken := sh.own.Taken(a); taken && !off && !sh.own.Owns(a) && w.saw(h, i, a) {
			w.fail("%s is an endpoint's on host %d and belongs to %q, and is not off the network", a, h.n, owner)
		}
		if h.off[i][a] && !off && !sh.own.Owns(a) {
			w.fail("%s is an endpoint's on host %d and not its, and came back to the network", a, h.n)
		}
		if off {
			h.off[i][a] = true
		} else {
			delete(h.off[i], a)
		}
	}
}

// checkJournal compares a host's containers with its journal, and that with the
// store: what the journal owns, and so what containers have.
func (w *world) checkJournal(h *mhost, i int, told bool) {
	s := h.disk.shares[i]
	if s == nil {
		s = &diskShare{}
	}
	if told {
		for first, e := range s.entries {
			mine := w.owners(w.st.Get(cluster.OwnersPrefix(s.uuid) + first.String())).Owned[h.disk.ident.ID]
			if lost := e.Own &^ mine; lost != 0 {
				w.fail("the journal of host %d owns %v, which the store does not give it: not a subset", h.n, ownership.Addrs(first, lost))
			}
		}
	}
	trusted := w.trusted(h)
	for a := range h.engine[i] {
		if h.conflict[i][a] {
			continue
		}
		if _, ok := s.held[a]; !ok {
			w.fail("%s is an endpoint's on host %d, but not in use in its journal", a, h.n)
		}
		if trusted && s.entries[ownership.First(a)].Own&ownership.Bit(a) == 0 {
			w.fail("%s is an endpoint's on host %d, whose journal does not own it", a, h.n)
		}
	}
	if a := h.gateway[i]; a.IsValid() && !h.conflict[i][a] {
		if k := s.held[a]; k.kind != KindGateway {
			w.fail("%s is a gateway on host %d, but not in its journal", a, h.n)
		}
		if told && !slices.Contains(w.ownersOf(s.uuid, a).Shared[ownership.Bit(a)].By, h.disk.ident.ID) {
			w.fail("%s is a gateway on host %d, but the store does not say so", a, h.n)
		}
	}
}

func (w *world) fail(format string, args ...any) {
	w.dump()
	w.t.Fatalf("step %d: "+format, append([]any{w.n}, args...)...)
}

// dump shows the state in the log of a failure.
func (w *world) dump() {
	for kv := range w.st.All("") {
		w.logf("store %4d %s %s", kv.Rev, kv.Key, kv.Value)
	}
	for _, h := range w.hosts {
		w.logf("host %d up=%v link=%v standing=%s rolled=%v id=%+v queue=%d", h.n, h.up, h.link, h.standing, h.rolled, h.disk.ident, len(h.queue))
		for _, i := range slices.Sorted(maps.Keys(h.disk.shares)) {
			s := h.disk.shares[i]
			w.logf("   journal %v %s %v held %v", w.defs[i].subnet, s.uuid, s.entries, s.held)
			w.logf("   engine %v gateway %v conflicts %v", h.engine[i], h.gateway[i], h.conflict[i])
		}
	}
	for _, m := range w.msgs {
		w.logf("under way: %s of host %d applied=%v waits=%v", m.what, m.from.n, m.applied, m.done != nil)
	}
}

// backup keeps the store.
func (w *world) backup() {
	w.logf("backup of the store at %d", w.st.Rev())
	if len(w.backups) == 3 {
		w.backups[w.d.n(3)] = w.st.Clone()
		return
	}
	w.backups = append(w.backups, w.st.Clone())
}

// restore puts a backup in place of the store, or an empty one.
func (w *world) restore() {
	if w.record().Phase != cluster.PhaseOK || w.operator().ID == "" {
		return
	}
	next := store.NewMemory()
	switch {
	case len(w.backups) > 0 && !w.d.one(5):
		next = pickOf(&w.d, w.backups).Clone()
		w.count("restore")
	case w.operator().UUID == "":
		return // see the assumptions
	default:
		w.count("wipe")
	}
	w.logf("the store is restored: revision %d becomes %d", w.st.Rev(), next.Rev())
	for _, m := range w.msgs {
		w.lose(m)
	}
	w.msgs = nil
	w.st = next
	w.life++
	for _, h := range w.hosts {
		h.link = false
	}
	// Who saw something newer comes first; see the assumptions.
	for _, h := range w.hosts {
		if h.up && h.standing == cluster.Member && w.trusted(h) && next.Get("cluster").Rev != 0 && h.seen() > next.Rev() && !h.acting {
			h.link = true
			calm := w.calm
			w.calm = true
			h.look()
			w.calm = calm
			if w.record().Phase != cluster.PhaseFrozen {
				w.fail("host %d saw revision %d and did not freeze the restored store at %d", h.n, h.seen(), next.Rev())
			}
			return
		}
	}
	w.recoverNow()
}

// recover is the operator's `weft store recover`, said when the cluster is frozen
// and sometimes again while it recovers.
func (w *world) recover() {
	r := w.record()
	if r.Phase == cluster.PhaseFrozen || r.Phase == cluster.PhaseRecovering && w.d.one(4) {
		w.recoverNow()
	}
}

// present are the hosts that the store knows.
func (w *world) present() (out []ownership.Host) {
	for kv := range w.st.All("self/") {
		if h := ownership.Host(kv.Key[len("self/"):]); !w.self(h).Removed {
			out = append(out, h)
		}
	}
	return out
}

func (w *world) recoverNow() {
	id := w.operator()
	if id.ID == "" {
		return // no host is left to say it on
	}
	txn, err := cluster.Recover(id, cluster.Sight{Rev: w.st.Rev(), Cluster: w.st.Get("cluster")}, w.present(), w.d.n(1<<20))
	must(err)
	w.count("recover")
	w.logf("weft store recover: %+v", id)
	if !w.apply(txn).OK {
		w.fail("weft store recover is refused")
	}
	for _, h := range w.hosts {
		if h.rolled {
			w.bury(h.disk.ident.ID, true)
		}
	}
}

// operator is on a host that was there at the last recovery, and knows every host.
func (w *world) operator() cluster.Identity {
	var id cluster.Identity
	for _, h := range w.hosts {
		i := h.disk.ident
		if h.rolled {
			w.gone[i.ID] = true
		}
		if (i.UUID != "" || w.record().UUID != "") && !w.gone[i.ID] && (id.ID == "" || i.Epoch > id.Epoch) {
			id.ID, id.UUID, id.Epoch = i.ID, i.UUID, i.Epoch
		}
	}
	current, known := map[ownership.Host]bool{}, maps.Clone(w.gone)
	for _, h := range w.hosts {
		current[h.disk.ident.ID] = true
		if h.disk.ident.Nonce != "" {
			known[h.disk.ident.ID] = true
		}
		for _, o := range h.disk.ident.Known {
			known[o] = true
		}
	}
	for h := range known {
		if !current[h] {
			w.gone[h] = true // its journal was lost
		}
	}
	id.Known = slices.Sorted(maps.Keys(known))
	id.Removed = slices.Sorted(maps.Keys(w.gone))
	return id
}

// remove is `weft host rm`, with --powered-off if alive.
func (w *world) remove(h *mhost, alive bool) {
	id := h.disk.ident.ID
	r := w.record()
	if r.Phase != cluster.PhaseOK && r.Phase != cluster.PhaseRecovering || w.gone[id] {
		return
	}
	if h.up && (h.link || !alive) {
		return
	}
	if h.up {
		w.count("host removed while alive")
	}
	w.count("host removed")
	w.bury(id, !w.d.one(4))
}

// bury does what `weft host rm` does; not whole is one that was killed midway.
func (w *world) bury(id ownership.Host, whole bool) {
	w.logf("weft host rm %s (whole %v)", id, whole)
	if !w.self(id).Removed {
		w.apply(cluster.Remove(id, w.st.Get("self/"+string(id))))
	}
	w.gone[id] = true
	// It asks for nothing any more: who grants that later would lose the address.
	for _, kv := range w.st.List("ask/").KVs {
		if a, err := ownership.DecodeAsk(kv); err == nil && a.From == id {
			w.apply(store.Txn{Then: []store.Op{store.Delete(kv.Key)}})
		}
	}
	stop := func() bool { return !whole && w.d.one(3) }
	for _, kv := range w.st.List("own/").KVs {
		if stop() {
			return
		}
		rec, err := ownership.Decode(kv.Value)
		must(err)
		if rec.Bury(id) {
			w.apply(store.Txn{If: []store.Cond{store.Unchanged(kv.Key, kv.Rev)}, Then: []store.Op{store.Put(kv.Key, rec.Encode())}})
		}
	}
	for _, kv := range w.st.List("pools/").KVs {
		if stop() {
			return
		}
		txn, err := cluster.Leave(id, kv, w.st.Get("index"))
		must(err)
		if len(txn.Then) > 0 {
			w.apply(txn)
		}
	}
}

// spoilDisk rolls a host's journal back, loses it, or copies it to other hardware.
func (w *world) spoilDisk(h *mhost) {
	switch k := w.d.n(3); {
	case k == 0 && h.old != nil:
		w.rollBack(h)
	case k == 1:
		h.loseDisk()
	case k == 2 && len(w.hosts) < 8:
		w.count("clone")
		c := w.addHost()
		w.logf("host %d is a clone of host %d", c.n, h.n)
		c.disk = h.disk.clone()
		c.start()
	}
}

// rollBack puts an older journal in place of a host's, and starts the host.
func (w *world) rollBack(h *mhost) {
	self := w.self(h.old.ident.ID)
	if h.old.ident.ID != h.disk.ident.ID || self.Nonce == h.old.ident.Nonce || self.Nonce == h.old.ident.Next || w.record().Phase != cluster.PhaseOK || h.old.ident.Nonce == "" {
		return
	}
	w.count("disk rolled back")
	w.logf("the disk of host %d is rolled back", h.n)
	h.crash()
	h.disk = h.old.clone()
	h.old = nil
	h.rolled = true
	for i := range w.defs {
		h.engine[i], h.conflict[i], h.off[i] = map[netip.Addr]string{}, map[netip.Addr]bool{}, map[netip.Addr]bool{}
		h.gateway[i] = netip.Addr{}
		if s := h.disk.shares[i]; s != nil {
			for a, k := range s.held {
				if k.kind == KindEndpoint {
					h.engine[i][a] = k.name
				}
			}
		}
	}
	h.link = true
	h.start()
}
