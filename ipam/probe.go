package ipam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A Machine is who has an address on a line and is no container of weft's.
type Machine struct {
	MAC net.HardwareAddr
	// Own is the name of the device by which this host has the address itself, "" if
	// another machine has it.
	Own string
}

// A Prober asks the line of a device of this host's who is there.
type Prober interface {
	// Probe asks who has these addresses and returns the machines that said so, or that
	// are about to take one. Whoever asks with the same mark is none of those. It takes
	// less than a second. An error says that who was silent may be there all the same;
	// what was heard before it counts. That the line is down or gone is [ErrNoLine]: then
	// addresses are given without asking.
	Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]Machine, error)
}

// Times of the probing.
const (
	// lookEvery is how often what grows old is looked for.
	lookEvery = 5 * time.Second
	// gather is how long a round waits for more that want to be in it: who comes too late
	// waits for the next one.
	gather = 20 * time.Millisecond
	// probeTime bounds one round. One takes half a second, but longer on a machine that is
	// too busy for it.
	probeTime = 4 * time.Second
	// waitProbe bounds what a request waits for probes while they fail, and waitAll what it
	// takes as a whole, the address that comes from another host included.
	waitProbe = 2 * time.Second
	waitAll   = 4500 * time.Millisecond
)

// unproven is why a request cannot be granted yet: no probe has said lately that nobody
// has an address that would be given. It is no refusal.
type unproven struct {
	pool *pool
	line *line
	addr netip.Addr // the one that is wanted, the zero address for any
}

// Error is never shown.
func (u *unproven) Error() string { return "nobody has asked yet who has it" }

// proof gets one request an address that no other machine has.
type proof struct {
	m     *IPAM
	began time.Time // on the IPAM's clock
	start time.Time
	// waits is when it began to wait for a probe on line; asks and finds are what the line
	// had counted then.
	waits       time.Time
	line        *line
	asks, finds int
	// queued is the pool in whose queue it is, wants the one address for which it waits.
	queued *pool
	wants  netip.Addr
}

func (m *IPAM) newProof() *proof { return &proof{m: m, began: m.now(), start: time.Now()} }

// lineOf returns the line on which the containers of a pool are machines; nil if there is
// none, or if somebody else answers for its addresses. The caller holds mu.
func (m *IPAM) lineOf(p *pool) *line {
	if m.cfg.Prober == nil || p.rec.Network == "" || p.id.space != spaceLocal || m.fromLeader(p) {
		return nil
	}
	device := m.cfg.Line(p.rec.Network)
	if device == "" {
		return nil
	}
	return p.book.line(device)
}

// prove returns an address that is proven to be nobody's: a, which was chosen for the
// request, or, if any will do, the first that is and that nobody waits for longer. It is a,
// unproven, only if nobody can tell. The caller holds mu.
func (pr *proof) prove(p *pool, req AddressRequest, a netip.Addr) (netip.Addr, error) {
	l, now := pr.m.lineOf(p), pr.m.now()
	if l == nil || p.book.held[a] != nil {
		return a, nil
	}
	anyone := !req.Address.IsValid()
	if anyone {
		p.asked = now
	}
	pr.m.pokeProbes() // there will be one less
	want := &unproven{pool: p, line: l}
	if !anyone || p.book.named(a, req.Name) {
		want.addr = a
		if l.proven(a, now) {
			l.given(a, now)
			return a, nil
		}
	} else if list := l.ready(p.book, p.id.dynamic(), now); len(list) > pr.before(p) {
		pr.leave()
		l.given(list[0], now)
		return list[0], nil
	}
	switch v := l.verdicts[a]; {
	case v.mac != nil && (!v.at.Before(pr.began) || pr.blind(l)):
		return a, taken(p, a, l.device, v)
	case pr.blind(l):
		l.late[a] = now
		return a, nil
	}
	return a, want
}

// before is how many requests for any address of a pool came before this one and still
// wait.
func (pr *proof) before(p *pool) int {
	if i := slices.Index(p.queue, pr); i >= 0 {
		return i
	}
	return len(p.queue)
}

// blind reports whether nobody could tell since the request came. A line that is down
// keeps no container from its start.
func (pr *proof) blind(l *line) bool { return !l.failed.Before(pr.start) }

// wait waits for the next round, for a while. The caller holds mu.
func (pr *proof) wait(u *unproven) (step, error) {
	l := u.line
	if pr.waits.IsZero() {
		pr.waits, pr.line, pr.asks, pr.finds = time.Now(), l, l.asks, l.finds
	}
	if pr.wants != u.addr {
		pr.want(u.addr)
	}
	if u.addr.IsValid() {
		l.asked[u.addr] = true
	} else if pr.queued == nil {
		pr.queued = u.pool
		u.pool.queue = append(u.pool.queue, pr)
	}
	pr.m.pokeProbes()
	since := pr.waits
	if since.Before(l.told) {
		since = l.told
	}
	left := time.Until(pr.start.Add(waitAll))
	if !l.probing {
		left = min(left, time.Until(since.Add(waitProbe)))
	}
	if left > 0 {
		return step{busy: l.changed, wait: left}, nil
	}
	what := "an address"
	if u.addr.IsValid() {
		what = u.addr.String()
	}
	return step{}, refuse(ErrProbe, "try again", "%s of %s: %s", what, u.pool.id.subnet, pr.account())
}

// account says what the request waited for in vain.
func (pr *proof) account() string {
	l, took := pr.line, time.Since(pr.waits).Round(100*time.Millisecond)
	if asks := l.asks - pr.asks; asks > 0 {
		return fmt.Sprintf("%d addresses were asked for on %s in %v, of which machines have %d, and other requests came before this one", asks, l.device, took, l.finds-pr.finds)
	}
	if l.err != nil {
		return fmt.Sprintf("in %v nobody could be asked on %s: %v", took, l.device, l.err)
	}
	return fmt.Sprintf("in %v nobody could be asked on %s", took, l.device)
}

// again asks those who have addresses of the pool once more, before it is called
// exhausted, which err says: some may be gone. The caller holds mu.
func (pr *proof) again(req AddressRequest, err error) (step, bool) {
	if !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrStore) || req.Gateway || req.Address.IsValid() {
		return step{}, false
	}
	p, err := pr.m.lookup(req.PoolID)
	if err != nil {
		return step{}, false
	}
	l := pr.m.lineOf(p)
	if l == nil || pr.blind(l) {
		return step{}, false
	}
	old := false
	for _, f := range pr.m.foreignersIn(l, p.book, p.id.dynamic()) {
		if v := l.verdicts[f.Address]; p.book.held[f.Address] == nil && v.at.Before(pr.began) {
			v.at = time.Time{} // it is due, after what others wait for
			l.verdicts[f.Address] = v
			old = true
		}
	}
	if !old {
		return step{}, false
	}
	s, err := pr.wait(&unproven{pool: p, line: l})
	return s, err == nil
}

// end takes back what the request asked for.
func (pr *proof) end() {
	if pr.line != nil {
		pr.m.mu.Lock()
		defer pr.m.mu.Unlock()
		pr.want(netip.Addr{})
		pr.leave()
	}
}

// want keeps one address for the request, and no other one any more. The caller holds mu.
func (pr *proof) want(a netip.Addr) {
	if n := pr.line.wanted[pr.wants]; n > 1 {
		pr.line.wanted[pr.wants] = n - 1
	} else if n == 1 {
		delete(pr.line.wanted, pr.wants)
		pr.line.notify()
	}
	if pr.wants = a; a.IsValid() {
		pr.line.wanted[a]++
	}
}

// leave lets those behind it in the queue go on. The caller holds mu.
func (pr *proof) leave() {
	if pr.queued != nil {
		pr.queued.queue = slices.DeleteFunc(pr.queued.queue, func(o *proof) bool { return o == pr })
		pr.queued = nil
		pr.line.notify()
	}
}

func taken(p *pool, a netip.Addr, device string, v verdict) error {
	if v.own != "" {
		return refuse(ErrInUse, "choose another address, or take it off "+v.own, "this host itself has %s of %s, on %s", a, p.id.subnet, v.own)
	}
	return refuse(ErrInUse, "choose another address, or take it from that machine",
		"%s of %s belongs to a machine that is not weft's: %s answered for it on %s", a, p.id.subnet, v.mac, device)
}

// HostHas tells all addresses that this host itself has on its devices. On lines where a
// container or a machine has one that came or went since it was told last, it is asked for
// again, and elsewhere before it is given.
func (m *IPAM) HostHas(addrs []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := make(map[netip.Addr]bool)
	var news []netip.Addr
	for _, a := range addrs {
		if !has[a] && !m.hostHas[a] {
			news = append(news, a)
		}
		has[a] = true
	}
	for a := range m.hostHas {
		if !has[a] {
			news = append(news, a)
		}
	}
	m.hostHas = has
	for _, a := range news {
		for _, b := range m.books {
			for _, l := range b.lines {
				if m.heldOn(l, b, a) || l.verdicts[a].mac != nil {
					l.again(a, m.now())
				} else {
					delete(l.verdicts, a) // that nobody had it
				}
			}
		}
	}
	if len(news) > 0 {
		m.pokeProbes()
	}
}

// LinesUp tells the devices of this host's on whose lines somebody can be asked by now, by
// name, with their index; the map is the IPAM's from then on. That nobody had an address on a line that went, or that is another
// device's by now, proves nothing any more.
func (m *IPAM) LinesUp(index map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.books {
		for _, l := range b.lines {
			if was := m.linesUp[l.device]; was != 0 && was != index[l.device] {
				l.forgetSilence()
				m.pokeProbes()
			}
		}
	}
	m.linesUp = index
}

// pokeProbes lets the probing look for work.
func (m *IPAM) pokeProbes() {
	select {
	case m.wakeProbes <- struct{}{}:
	default:
	}
}

// runProbes keeps the addresses that will be given next proven, until ctx ends.
func (m *IPAM) runProbes(ctx context.Context) {
	if m.cfg.Prober == nil {
		return
	}
	var work sync.WaitGroup
	defer work.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for _, r := range m.planProbes() {
			work.Go(func() { m.probe(ctx, r) })
		}
		select {
		case <-ctx.Done():
			return
		case <-m.wakeProbes:
			<-time.After(gather)
		case <-tick.C:
		}
	}
}

// round is one probe of several addresses of a book.
type round struct {
	book *book
	line *line
	// mark is the same on all hosts that share the book: one may have asked for an
	// address that belongs to the next one a moment later.
	mark  string
	addrs []netip.Addr
}

// planProbes returns the rounds that are due, and forgets lines on which no pool is.
func (m *IPAM) planProbes() []round {
	m.mu.Lock()
	defer m.mu.Unlock()
	ahead := make(map[*line][]netip.Addr)
	for _, p := range m.pools {
		if l := m.lineOf(p); l != nil {
			m.survey(p, l)
			ahead[l] = append(ahead[l], p.aheadOn(l, m.now())...)
		}
	}
	var out []round
	for _, b := range m.books {
		for device, l := range b.lines {
			list, used := ahead[l]
			if !used && !l.probing {
				delete(b.lines, device)
				b.mark()
			}
			if !used || l.probing {
				continue
			}
			if due := l.due(list, m.now()); len(due) > 0 {
				l.probing = true
				out = append(out, round{book: b, line: l, mark: m.markOf(b), addrs: due})
			}
		}
	}
	return out
}

// survey has the addresses asked for that a pool's containers had already when weft
// started, or when the pool came to this line: a machine may have them. The caller holds mu.
func (m *IPAM) survey(p *pool, l *line) {
	if p.surveyed == l {
		return
	}
	p.surveyed = l
	for a, h := range p.book.held {
		if _, asked := l.late[a]; !asked && h.kind == KindEndpoint && slices.Contains(h.tokens, p.id.token) {
			l.late[a] = m.now()
		}
	}
}

// markOf names a book for those who share it.
func (m *IPAM) markOf(b *book) string {
	if b.share != nil {
		return b.share.rec.Pool.UUID
	}
	return m.cfg.Seed
}

// probe does one round.
func (m *IPAM) probe(ctx context.Context, r round) {
	limited, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	began := m.now()
	heard, err := m.cfg.Prober.Probe(limited, r.line.device, r.mark, r.addrs)
	m.mu.Lock()
	defer m.mu.Unlock()
	l := r.line
	for _, a := range r.addrs {
		delete(l.asked, a)
		if who := heard[a]; err == nil || who.MAC != nil {
			m.judgeProbe(r.book, l, a, verdict{at: began, mac: who.MAC, own: who.Own})
		}
	}
	if err == nil || ctx.Err() == nil {
		m.judgeRound(l, err)
	}
	l.probing = false
	r.book.bound(l, r.addrs)
	r.book.mark()
	l.notify()
	if err == nil {
		m.pokeProbes() // more may have been asked for meanwhile
	}
}

// judgeRound takes over how a round went. The caller holds mu.
func (m *IPAM) judgeRound(l *line, err error) {
	log, down := m.cfg.Logger.With("device", l.device), errors.Is(err, ErrNoLine)
	known := err != nil && l.err != nil && l.err.Error() == err.Error()
	switch {
	case err == nil && l.err != nil:
		log.Info("other machines can be asked for their addresses again")
	case down && !known:
		log.Warn("nobody can tell which addresses other machines have: they are given without a probe, which is made up for", "err", err)
	case err != nil && !known:
		log.Warn("other machines could not be asked for their addresses: who needs one waits", "err", err)
	}
	l.err = err
	switch {
	case down:
		l.failed = time.Now()
		l.forgetSilence() // they may not have heard either
	case err == nil:
		l.told = time.Now()
	}
}

// judgeProbe takes over what a probe said of an address. The caller holds mu.
func (m *IPAM) judgeProbe(b *book, l *line, a netip.Addr, v verdict) {
	old := l.verdicts[a]
	if !v.at.Before(l.late[a]) {
		delete(l.late, a)
	}
	l.count(v.mac != nil, old.mac == nil && b.held[a] == nil)
	if v.mac != nil && b.held[a] == nil && b.own != nil && !b.own.Owns(a) {
		delete(l.verdicts, a) // it went to another host meanwhile, which may use it
		return
	}
	log := m.cfg.Logger.With("address", a, "device", l.device)
	switch {
	case v.mac == nil && old.mac != nil:
		log.Info("who had an address of a pool has it no more, or does not answer", "who", old.who())
	case v.mac != nil && old.mac != nil:
		v.since = old.since
	case v.mac != nil && m.heldOn(l, b, a):
		log.Error("an address of a container is taken by somebody else too, see `weft status`", "who", v.who())
	case v.mac != nil && l.row == rowMost:
		log.Warn("machines that are not weft's have many addresses of a pool in a row: more are asked for only when a container needs one", "row", l.row, "who", v.who())
	case v.mac != nil && l.row < rowMost:
		log.Info("an address of a pool is not given out: somebody who is not weft's has it", "who", v.who())
	}
	if v.since.IsZero() {
		v.since = v.at
	}
	l.verdicts[a] = v
}
