package ipam

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestReady: what is given next without a probe is in the order of choice, and nothing that
// was in use lately while there is anything else.
func TestReady(t *testing.T) {
	now := time.Now()
	rng := netip.MustParsePrefix("10.9.0.0/29") // .1 to .6
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, n}) }
	b := newBook(rng)
	l := b.line("e0")
	want := func(why string, last ...byte) {
		t.Helper()
		var list []netip.Addr
		for _, n := range last {
			list = append(list, at(n))
		}
		if got := l.ready(b, rng, now); !slices.Equal(got, list) {
			t.Errorf("%s: %v, want %v", why, got, list)
		}
	}
	free := func(n byte) {
		b.hold(at(n), &holding{kind: KindEndpoint})
		b.remember(b.nextFreed(at(n), ""))
		l.verdicts[at(n)] = verdict{at: now}
	}
	l.verdicts[at(3)], l.verdicts[at(1)] = verdict{at: now}, verdict{at: now}
	want("two are proven", 1, 3)
	l.wanted[at(1)] = 1
	want("a request waits for one", 3)
	free(6)
	free(2)
	want("one that was in use while others are left", 3)
	for _, n := range []byte{1, 3, 4, 5} {
		b.hold(at(n), &holding{kind: KindEndpoint})
	}
	want("nothing else is left", 6, 2)
	delete(l.verdicts, at(6))
	want("one was freed before and is not proven")
}

// TestDue: no round asks for more than can be heard, and what somebody waits for comes first.
func TestDue(t *testing.T) {
	now := time.Now()
	b := newBook(netip.MustParsePrefix("10.8.0.0/16"))
	l := b.line("e0")
	for i := range 300 {
		l.verdicts[netip.AddrFrom4([4]byte{10, 8, byte(i / 250), byte(i % 250)})] = verdict{at: now.Add(-time.Hour), mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	}
	asked, late, ahead := netip.MustParseAddr("10.8.200.1"), netip.MustParseAddr("10.8.100.1"), netip.MustParseAddr("10.8.50.1")
	l.asked[asked], l.late[late], l.late[netip.MustParseAddr("10.8.100.2")] = true, now, now.Add(time.Second)
	got := l.due([]netip.Addr{ahead, asked}, now)
	if len(got) != readyMost || !slices.Equal(got[:3], []netip.Addr{asked, late, ahead}) || slices.Contains(got[3:], asked) {
		t.Errorf("%d addresses are due: %v", len(got), got)
	}
}

// TestLate: a round that began before an address is to be asked for once more is not the one.
func TestLate(t *testing.T) {
	now := time.Now()
	m := &IPAM{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	b := newBook(netip.MustParsePrefix("10.9.0.0/29"))
	l, a := b.line("e0"), netip.MustParseAddr("10.9.0.2")
	l.late[a] = now.Add(time.Second)
	m.judgeProbe(b, l, a, verdict{at: now})
	if len(l.late) == 0 {
		t.Error("an early round ends it")
	}
	m.judgeProbe(b, l, a, verdict{at: now.Add(time.Second)})
	if len(l.late) != 0 {
		t.Error("it is asked for again and again")
	}
}
