package ipam

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// The model: several hosts, each with the real book, the real machine of the
// ownership and the real judgement of its standing, over a simulated store,
// network and journal. A schedule is a list of numbers; each becomes a step (see
// [world.step]). Everything is one goroutine and no clock is read, so a failed
// schedule fails again: rapid prints how.
//
// What is assumed of the world, because nothing could notice it:
//
//   - A journal that was rolled back is started where the store can be reached, and
//     was rolled back beyond a start of the host. (A machine that boots an old disk
//     and sees no store cannot know.)
//   - A restored store is first seen by a host that had seen something newer, which
//     freezes the cluster, or else the operator says `weft store recover` at once.
//     Transactions that were on their way to the old store die with it.
//   - A store is wiped while a host is left that was a member and was not removed. (To
//     all others it is a new one, in which those that were removed are foreign.)
//   - Who says `weft store recover` knows all hosts, and removed those whose
//     journals were rolled back or lost.

// batches times the checks of rapid (100 unless -rapid.checks says otherwise) is
// the number of schedules.
const batches = 100

func TestModel(t *testing.T) {
	t.Parallel()
	// Of what a schedule makes, hardly anything lives longer than it.
	before := debug.SetGCPercent(400)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	all := &tally{n: map[string]int{}}
	var broken atomic.Bool // one schedule that fails ends the others
	t.Run("schedules", func(t *testing.T) {
		for i := range batches {
			t.Run(fmt.Sprintf("batch-%d", i), func(t *testing.T) {
				t.Parallel()
				if broken.Load() {
					return
				}
				t.Cleanup(func() { broken.CompareAndSwap(false, t.Failed()) })
				mine := &tally{n: map[string]int{}}
				rapid.Check(t, func(t *rapid.T) { playSchedule(t, mine) })
				all.add(mine)
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Log(all)
	if all.n["schedules"] < batches*100 || strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		return
	}
	for _, kind := range kinds {
		if all.n[kind] == 0 {
			t.Errorf("in %d schedules there was no %q", all.n["schedules"], kind)
		}
	}
}

// kinds of events that have to happen in a run of the model.
var kinds = []string{
	"answer applied late", "answer lost", "applied after unknown", "applied after the host's crash", "dropped", "down", "refused by the store", "fence failed",
	"answered dynamic", "answered explicit", "answered gateway", "answered while cut off", "answered before the store was seen", "request timed out", "abandoned in the journal",
	"fetch", "ask", "ask granted", "ask refused", "ask swept", "explicit from nobody", "dead address taken", "trim", "conflict found", "conflict resolved",
	"crash with pending writes", "reboot", "cut", "watch cut", "disk rolled back", "stopped", "journal lost", "clone", "host removed", "host removed while alive", "new id",
	"restore", "wipe", "back, but not kept", "freeze", "recover", "thaw", "pool left", "pool deleted", "membership forgotten", "leak collected", "leave unknown", "exhausted",
}

// tally counts events.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(o *tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range o.n {
		c.n[k] += v
	}
}

func (c *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d schedules, %d steps", c.n["schedules"], c.n["steps"])
	for _, k := range slices.Sorted(maps.Keys(c.n)) {
		fmt.Fprintf(&b, "\n%8d  %s", c.n[k], k)
	}
	return b.String()
}

// dice turns one drawn number into the choices of a step.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// n chooses one of 0 to k-1.
func (d *dice) n(k int) int { return int(d.next() >> 33 % uint64(k)) }

// one says yes once in k times.
func (d *dice) one(k int) bool { return d.n(k) == 0 }

func pickOf[T any](d *dice, list []T) T { return list[d.n(len(list))] }

// def is a subnet of the model.
type def struct {
	domain string
	subnet netip.Prefix
	size   int    // without the reserved addresses
	key    string // of the store's record
}

func (f def) String() string { return fmt.Sprintf("%v of %s", f.subnet, f.domain) }

func newDef(domain, subnet string) def {
	p := netip.MustParsePrefix(subnet)
	return def{domain, p, int(sizeOf(p)) - len(reservedOf(p)), cluster.PoolKey(domain, p)}
}

func (f def) addr(i int) netip.Addr {
	a := f.subnet.Addr()
	b := a.AsSlice()
	b[len(b)-1] += byte(i)
	a, _ = netip.AddrFromSlice(b)
	return a
}

var defSets = [][]def{
	{newDef("cluster", "10.1.0.0/28")},
	{newDef("cluster", "10.1.0.16/28"), newDef("other", "10.1.0.16/28")},
	{newDef("cluster", "10.1.0.32/27")},
	{newDef("cluster", "10.1.0.64/26")},
	{newDef("cluster", "10.1.0.128/25"), newDef("cluster", "10.2.0.0/29")},
	{newDef("cluster", "10.3.0.0/24")},
	{newDef("cluster", "fd00::/120"), newDef("cluster", "10.4.0.0/29")},
	{newDef("cluster", "fd00::f0/125")},
}

// themes are the rare events that a schedule may have.
type themes struct{ restores, removals, disks, membership bool }

func playSchedule(t *rapid.T, c *tally) {
	d := dice(rapid.Uint64().Draw(t, "world"))
	steps := rapid.SliceOfN(rapid.Uint64(), 40, 120).Draw(t, "steps")
	w := newWorld(t, c, d)
	c.n["schedules"]++
	for i, s := range steps {
		if s == 0 {
			continue
		}
		c.n["steps"]++
		w.d = dice(s)
		w.n = i
		w.step()
		w.check()
	}
	w.end()
}

func newWorld(t *rapid.T, c *tally, d dice) *world {
	w := &world{t: t, loud: t.Output() != io.Discard, c: c, d: d, st: store.NewMemory(), decoded: map[*byte]any{}, gone: map[ownership.Host]bool{}, by: map[ownership.Host]*mhost{}}
	w.defs = pickOf(&w.d, defSets)
	w.lie = []int{4, 8, 16, 40}[w.d.n(4)]
	w.themes = themes{restores: w.d.one(3), removals: w.d.one(2), disks: w.d.one(3), membership: w.d.one(3)}
	n := 1 + w.d.n(4)
	if w.d.one(6) {
		n = 1 + w.d.n(8)
	}
	w.calm = true
	for range n {
		h := w.addHost()
		h.start()
	}
	for range 4 {
		for _, h := range w.hosts {
			h.work()
		}
	}
	for _, h := range w.hosts {
		for i := range w.defs {
			if w.d.n(4) > 0 {
				h.join(i)
			}
		}
	}
	if w.themes.restores {
		w.backup()
	}
	w.calm = false
	w.logf("%d hosts, subnets %v, themes %+v", n, w.defs, w.themes)
	return w
}

func (w *world) addHost() *mhost {
	h := &mhost{w: w, n: len(w.hosts) + 1, link: true}
	h.hw = h.n
	h.disk = disk{ident: cluster.Identity{ID: w.newID(h), Machine: h.machine()}, shares: map[int]*diskShare{}}
	h.engine = make([]map[netip.Addr]string, len(w.defs))
	h.conflict, h.off = make([]map[netip.Addr]bool, len(w.defs)), make([]map[netip.Addr]bool, len(w.defs))
	h.gateway = make([]netip.Addr, len(w.defs))
	for i := range w.defs {
		h.engine[i], h.conflict[i], h.off[i] = map[netip.Addr]string{}, map[netip.Addr]bool{}, map[netip.Addr]bool{}
	}
	w.hosts = append(w.hosts, h)
	return h
}

// step is one step of a schedule.
func (w *world) step() {
	h := pickOf(&w.d, w.hosts)
	i := w.d.n(len(w.defs))
	k := w.d.n(100)
	switch {
	case k < 13:
		h.request(i, reqDynamic)
	case k < 23:
		h.request(i, reqExplicit)
	case k < 26:
		h.request(i, reqGateway)
	case k < 36:
		h.releaseAny(i)
	case k < 54:
		h.work()
	case k < 62:
		w.deliver()
	case k < 68:
		h.poll()
	case k < 71:
		h.flush(w.d.n(len(h.queue) + 1))
	case k < 77:
		h.answerAsks()
	case k < 80:
		h.timeout()
	case k < 85:
		h.trim(i)
	case k < 87:
		h.toggleLink()
	case k < 90:
		w.crashOrStart(h)
	case k < 91:
		h.collect(i)
	case k < 92:
		h.sweep()
	default:
		w.rare(h, i)
	}
}

func (w *world) crashOrStart(h *mhost) {
	switch {
	case !h.up:
		h.start()
	case w.d.one(4):
		h.crash()
		h.reboot()
	default:
		h.crash()
		if w.d.n(3) > 0 {
			h.start()
		}
	}
}

// rare does what a theme of the schedule allows.
func (w *world) rare(h *mhost, i int) {
	switch k := w.d.n(12); {
	case k == 0 && w.themes.restores:
		w.backup()
	case k == 1 && w.themes.restores:
		w.restore()
	case k <= 3 && w.themes.restores:
		w.recover()
		for _, h := range w.hosts {
			h.link = h.link || w.d.n(3) > 0
			for range 4 {
				h.work()
			}
			if w.d.one(3) {
				h.crash()
				h.start()
			}
		}
	case k <= 5 && w.themes.removals:
		w.remove(h, w.d.one(3))
	case k == 6 && w.themes.disks:
		h.copyDisk()
	case k == 7 && w.themes.disks:
		w.spoilDisk(h)
	case k <= 10 && w.themes.membership:
		h.leave(i)
	case k == 11 && w.themes.membership:
		h.join(i)
	default:
		h.flap(i)
	}
}
