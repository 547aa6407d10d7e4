package ipam

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"
)

// How long what a probe said counts.
const (
	// provenFor is how old the probe may be by which an address is handed out.
	provenFor = time.Minute
	// probeAgain is when it is repeated, so that there always is one.
	probeAgain = 45 * time.Second
	// foreignAgain is when a machine is asked again whether it still has its address.
	foreignAgain = 10 * time.Minute
)

// How many addresses of a pool are probed ahead of need.
const (
	readyIdle = 2
	readyBusy = 8   // within quietAfter of a request
	readyMost = 128 // while requests wait; no round asks for more
	// quietAfter is how long after its last request a pool counts as busy.
	quietAfter = 2 * time.Minute
)

// What bounds the search where something answers for every address: a tarpit, a switch that
// answers for all, an attacker.
const (
	// rowMost is after how many machines in a row no more addresses are probed ahead of need.
	rowMost = 128
	// foreignMost is how many machines' addresses are remembered.
	foreignMost = 1024
)

// line is what is known of the machines on the line of a device that are not weft's, as
// far as the addresses of one book go.
type line struct {
	device   string
	verdicts map[netip.Addr]verdict
	// asked are addresses that requests wait for, or of which there is news; late are those that containers have and
	// that are asked for once more, and from when on.
	asked map[netip.Addr]bool
	late  map[netip.Addr]time.Time
	// wanted counts the requests under way that waited for just that address: nobody
	// else gets it from under them.
	wanted map[netip.Addr]int
	// probing says that a round is out; changed is closed and made anew when who waits
	// should look again.
	probing bool
	changed chan struct{}
	// err is why the last round failed, nil if it did not; failed is when the line was down
	// last, told when a round last went well. asks and finds count the addresses that were
	// asked for, and those that machines have.
	err          error
	failed, told time.Time
	asks, finds  int
	// row counts the addresses that turned out to be machines' since one turned out to be nobody's.
	row int
}

// notify lets everybody look who waits.
func (l *line) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// verdict is what a probe said of an address.
type verdict struct {
	at time.Time // when it was asked
	// mac is that of the machine that has the address, nil if none has, and own the device
	// by which it is this host itself; since is when that was heard first.
	mac   net.HardwareAddr
	own   string
	since time.Time
}

// count counts an address that was asked for: found says that a machine has it, fresh that this
// is news and that no container has it.
func (l *line) count(found, fresh bool) {
	l.asks++
	switch {
	case !found:
		l.row = 0
		return
	case fresh:
		l.row++
	}
	l.finds++
}

// who says which machine has the address.
func (v verdict) who() string {
	if v.own != "" {
		return "this host, on " + v.own
	}
	return "the machine " + v.mac.String()
}

// within reports whether the verdict is younger than d. One from the future is of before
// the clock was set.
func (v verdict) within(d time.Duration, now time.Time) bool {
	age := now.Sub(v.at)
	return age >= 0 && age < d
}

// given notes that an address is handed out, and has to be asked for once more: a machine
// may have taken it since the probe, or the probe may have reached nobody, as soon after a
// line came up, when many a switch forwards nothing for half a minute.
func (l *line) given(a netip.Addr, now time.Time) { l.late[a] = now.Add(provenFor) }

// again has an address asked for now, and for once more when that was due anyway.
func (l *line) again(a netip.Addr, now time.Time) {
	l.asked[a] = true
	if _, due := l.late[a]; !due {
		l.late[a] = now // until a round succeeds
	}
}

// gone notes that no container has the address any more. That proves nothing: a machine
// may have taken it while the container had it, or its host was off.
func (l *line) gone(a netip.Addr) {
	if l != nil {
		delete(l.late, a)
	}
}

// proven reports whether a probe has said lately that no machine has the address.
func (l *line) proven(a netip.Addr, now time.Time) bool {
	v := l.verdicts[a]
	return v.mac == nil && v.within(provenFor, now)
}

// forgetSilence forgets that nobody answered for addresses. What comes after that may be
// another line, where it is worth looking again.
func (l *line) forgetSilence() {
	l.row = 0
	maps.DeleteFunc(l.verdicts, func(_ netip.Addr, v verdict) bool { return v.mac == nil })
}

// ready is book.next among the addresses that are proven. The turn of one that was in use
// lately comes only after those that were not and those freed before.
func (l *line) ready(b *book, rng netip.Prefix, now time.Time) (out []netip.Addr) {
	fresh := false
	for _, a := range b.next(rng, readyMost) {
		freed, proven := b.touched.has(a), l.proven(a, now)
		switch {
		case l.wanted[a] > 0:
			continue
		case freed && (fresh || !proven):
			return out
		case proven:
			out = append(out, a)
		}
		fresh = fresh || !freed
	}
	return out
}

// due returns of which addresses somebody has to be asked, the most urgent first, and no
// more than one round can ask for. ahead are those that will be given next. What is old is
// forgotten.
func (l *line) due(ahead []netip.Addr, now time.Time) []netip.Addr {
	ask := slices.SortedFunc(maps.Keys(l.asked), netip.Addr.Compare)
	for _, a := range slices.SortedFunc(maps.Keys(l.late), netip.Addr.Compare) {
		if !now.Before(l.late[a]) {
			ask = append(ask, a)
		}
	}
	for _, a := range ahead {
		if !l.verdicts[a].within(probeAgain, now) {
			ask = append(ask, a)
		}
	}
	for a, v := range l.verdicts {
		switch {
		case v.mac != nil && !v.within(foreignAgain, now):
			ask = append(ask, a)
		case v.mac == nil && !v.within(provenFor, now):
			delete(l.verdicts, a)
		}
	}
	seen := make(map[netip.Addr]bool)
	ask = slices.DeleteFunc(ask, func(a netip.Addr) bool {
		again := seen[a]
		seen[a] = true
		return again
	})
	return ask[:min(len(ask), readyMost)]
}

// ahead is how many addresses of a pool are kept proven.
func (p *pool) ahead(now time.Time) int {
	switch {
	case len(p.queue) > 0:
		return readyMost // machines may have most of them
	case (verdict{at: p.asked}).within(quietAfter, now):
		return readyBusy
	}
	return readyIdle
}

// aheadOn returns which addresses of a pool are to be proven on its line. After a long row of
// machines those are only the ones that were nobody's when they were asked for last: whoever
// needs an address looks further, and a machine that is gone ends the row.
func (p *pool) aheadOn(l *line, now time.Time) []netip.Addr {
	list := p.book.next(p.id.dynamic(), p.ahead(now))
	if l.row < rowMost || len(p.queue) > 0 {
		return list
	}
	return slices.DeleteFunc(list, func(a netip.Addr) bool {
		v, known := l.verdicts[a]
		return !known || v.mac != nil
	})
}

// inRow says whether a line has so many machines in a row that something may answer for all.
func (b *book) inRow() bool {
	for _, l := range b.lines {
		if l.row >= rowMost {
			return true
		}
	}
	return false
}

// line returns what is known of the line of a device.
func (b *book) line(device string) *line {
	l := b.lines[device]
	if l == nil {
		l = &line{device: device, verdicts: map[netip.Addr]verdict{}, asked: map[netip.Addr]bool{}, late: map[netip.Addr]time.Time{}, wanted: map[netip.Addr]int{}, changed: make(chan struct{})}
		if b.lines == nil {
			b.lines = make(map[string]*line)
		}
		b.lines[device] = l
	}
	return l
}

// next returns up to n free addresses of rng in the order in which they are handed out,
// where no name asks for its own.
func (b *book) next(rng netip.Prefix, n int) []netip.Addr {
	var out []netip.Addr
	if b.own != nil {
		b.own.Lowest(rng, func(a netip.Addr) bool {
			if !b.touched.has(a) {
				out = append(out, a)
			}
			return len(out) < n
		})
	} else {
		for lo, last := rng.Addr(), lastOf(rng); len(out) < n; {
			a, ok := b.gap(lo, last)
			if !ok {
				break
			}
			out, lo = append(out, a), a.Next()
		}
	}
	for _, f := range b.freed {
		if len(out) < n && rng.Contains(f.addr) && b.mine(f.addr) {
			out = append(out, f.addr)
		}
	}
	return out
}

// gap returns the lowest address from lo to hi that was not used lately and that no other
// machine has.
func (b *book) gap(lo, hi netip.Addr) (netip.Addr, bool) {
	a, ok := b.touched.gap(lo, hi)
	for ok && b.foreigners[a] {
		a, ok = b.touched.gap(a.Next(), hi)
	}
	return a, ok
}

// others counts the addresses of rng that only machines have which are not weft's.
func (b *book) others(rng netip.Prefix) (n uint64) {
	for a := range b.foreigners {
		if rng.Contains(a) && b.held[a] == nil {
			n++
		}
	}
	return n
}

// mark keeps the addresses out of use that machines on any of the book's lines have. For
// the other hosts they are in use here.
func (b *book) mark() {
	was := b.foreigners
	b.foreigners = make(map[netip.Addr]bool)
	for _, l := range b.lines {
		for a, v := range l.verdicts {
			if v.mac != nil {
				b.foreigners[a] = true
			}
		}
	}
	if b.own == nil {
		return
	}
	for a := range was {
		if !b.foreigners[a] {
			b.own.Use(a, b.held[a] != nil)
		}
	}
	for a := range b.foreigners {
		if !was[a] {
			b.own.Use(a, true)
		}
	}
}

// bound forgets those machines of a round for which a line has no room, but for what a
// container has or a request waits for. They are found again when it is their turn.
func (b *book) bound(l *line, round []netip.Addr) {
	over := -foreignMost
	for _, v := range l.verdicts {
		if v.mac != nil {
			over++
		}
	}
	for _, a := range round {
		if over > 0 && l.verdicts[a].mac != nil && l.wanted[a] == 0 && b.held[a] == nil {
			delete(l.verdicts, a)
			over--
		}
	}
}

// A Foreigner is an address of a pool that a machine has which is not weft's.
type Foreigner struct {
	Address netip.Addr
	// MAC is the machine's.
	MAC net.HardwareAddr
	// Own is the device by which this host has the address itself, "" if another machine
	// has it.
	Own string
	// Since is when it was heard first.
	Since time.Time
	// Held says that a container has the address on the same line as well: it was given
	// while nobody could be asked.
	Held bool
}

// pardon forgets that machines have an address, so that it can be given away: whoever gets
// it asks by itself.
func (b *book) pardon(a netip.Addr) {
	if b.foreigners[a] {
		for _, l := range b.lines {
			delete(l.verdicts, a)
		}
		b.mark()
	}
}

// heldOn reports whether a container on a line has an address. The gateway may well be a
// machine's, and so may what one on another line with an equal subnet has. The caller
// holds mu.
func (m *IPAM) heldOn(l *line, b *book, a netip.Addr) bool {
	h := b.held[a]
	return h != nil && h.kind == KindEndpoint && slices.ContainsFunc(h.tokens, func(t token) bool {
		p := m.pools[t]
		return p != nil && m.lineOf(p) == l
	})
}

// foreignersIn returns who has addresses of a subnet, by address. The caller holds mu.
func (m *IPAM) foreignersIn(l *line, b *book, subnet netip.Prefix) []Foreigner {
	var out []Foreigner
	for a, v := range l.verdicts {
		if v.mac != nil && subnet.Contains(a) {
			out = append(out, Foreigner{Address: a, MAC: v.mac, Own: v.own, Since: v.since, Held: m.heldOn(l, b, a)})
		}
	}
	slices.SortFunc(out, func(x, y Foreigner) int { return x.Address.Compare(y.Address) })
	return out
}
