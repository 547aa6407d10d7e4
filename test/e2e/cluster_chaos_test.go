package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/test/lab"
)

// The two pools that all hosts share. The small one is always nearly full, so
// that addresses move between the hosts all the time.
const (
	chaosWide   = "10.86.0.0/24"
	chaosNarrow = "10.87.0.0/27"
	// chaosAux is an aux address of the first one.
	chaosAux = "10.86.0.7"

	// chaosUsers is how many callers each host has, chaosBeat the pause between
	// two calls of one of them.
	chaosUsers = 4
	chaosBeat  = 15 * time.Millisecond

	// chaosLimit is what no call may take: 5 s, and what a busy machine adds.
	chaosLimit = 5*time.Second + 1500*time.Millisecond
)

func chaosPools() []string { return []string{chaosWide, chaosNarrow} }

// TestClusterChaos lets callers on four hosts request and release addresses of
// two pools while members of the store, links and weft itself fail and come back.
// WEFT_CHAOS_SEED repeats a schedule, WEFT_CHAOS_SECONDS makes it longer. It is
// not parallel to other tests: it measures how long calls take.
func TestClusterChaos(t *testing.T) {
	seed := chaosNumber(t, "WEFT_CHAOS_SEED", uint64(time.Now().UnixNano()))
	seconds := chaosNumber(t, "WEFT_CHAOS_SECONDS", 20)
	t.Logf("WEFT_CHAOS_SEED=%d repeats this schedule", seed)
	x := newChaos(t, seed)
	x.openPools()
	end := x.populate(seed)
	x.storm(int(seconds))
	x.calm()
	end()
	x.book.report(t)
	x.agreement()
	x.noAsks()
	x.journals()
	x.agreement()
	x.handOutAgain()
}

func chaosNumber(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s has to be a number: %v", name, err)
	}
	return n
}

// chaos is four hosts with weft, and what is wrong with them at the moment.
type chaos struct {
	*cluster
	rng   *rand.Rand
	hosts []*chaosHost
	book  *chaosBook
	begin time.Time
	// faults are what is broken, by its target; tick counts the beats of the storm.
	faults map[string]*fault
	tick   int
	story  []string
}

// fault is something broken.
type fault struct {
	until int // the tick at which it is repaired
	since int
	heal  func()
	// cut are hosts that the store cannot be reached from; probed says that one of
	// them was looked at.
	cut    []*chaosHost
	probed bool
}

// chaosHost is one host with weft.
type chaosHost struct {
	*site
	id    string
	pools map[string]string // PoolID by subnet
	api   lab.Caller
	// gate is held by callers, each for one call, and whole while weft is dead.
	gate  sync.RWMutex
	dying atomic.Bool
	runs  []*lab.Process
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	var hosts []lab.HostConfig
	for i := range 4 {
		hosts = append(hosts, lab.HostConfig{Name: fmt.Sprintf("h%d", i+1), NoEngine: true})
	}
	l := lab.New(t, lab.Config{Hosts: hosts})
	store, err := lab.StartStore(t.Context(), lab.StoreConfig{Members: l.Hosts[:3]})
	if err != nil {
		t.Fatal(err)
	}
	x := &chaos{cluster: &cluster{TB: t, lab: l, store: store}, rng: rand.New(rand.NewPCG(seed, 0)), begin: time.Now(),
		faults: map[string]*fault{}}
	x.book = &chaosBook{held: map[netip.Addr]chaosUser{}, counts: map[string]int{}, slowest: map[string]time.Duration{}}
	t.Cleanup(x.tell)
	for _, host := range l.Hosts {
		h := &chaosHost{site: &site{TB: t, Host: host, lab: l, out: l.Outside}, pools: map[string]string{}}
		h.api = lab.Dial(func() (string, error) {
			return fmt.Sprintf("/proc/%d/root/run/docker/plugins/weft.sock", h.PID()), nil
		})
		x.hosts, x.sites = append(x.hosts, h), append(x.sites, h.site)
	}
	x.all(func(s *site) error {
		return s.CopyIn(s.Context(), "../../build/weft-"+goarch(s.TB), "/usr/local/bin/weft")
	})
	for _, h := range x.hosts {
		x.must(h.start(store))
	}
	for _, h := range x.hosts {
		x.must(h.await())
		x.comesTrue(h.Host.Name+" to be a member", h.isMember)
		h.TB = t
		h.id = h.site.id()
	}
	return x
}

// tell says what is needed to understand a failure.
func (x *chaos) tell() {
	if !x.Failed() {
		return
	}
	x.Logf("what happened:\n%s", strings.Join(x.story, "\n"))
	for _, h := range x.hosts {
		for i, p := range h.runs {
			// Refused calls are what the callers are for.
			lines := slices.DeleteFunc(strings.Split(p.Output(), "\n"), func(line string) bool { return strings.Contains(line, "plugin call failed") })
			x.Logf("%s: run %d of weft:\n%s", h.Host.Name, i+1, tail(strings.Join(lines, "\n"), 40))
		}
	}
}

// happens notes what the storm does.
func (x *chaos) happens(format string, args ...any) {
	x.story = append(x.story, fmt.Sprintf("%6.2fs ", time.Since(x.begin).Seconds())+fmt.Sprintf(format, args...))
}

// start runs weft; see await.
func (h *chaosHost) start(store *lab.Store) error {
	args := []string{"env"}
	set := store.Settings()
	for _, name := range slices.Sorted(maps.Keys(set)) {
		args = append(args, name+"="+set[name])
	}
	p, err := h.Background(append(args, "weft", "serve")...)
	if err == nil {
		h.runs = append(h.runs, p)
	}
	return err
}

// await waits until weft answers on both its sockets.
func (h *chaosHost) await() error {
	ctx, cancel := context.WithTimeout(h.Context(), 20*time.Second)
	defer cancel()
	return lab.Until(ctx, h.Host.Name+": weft to answer", func(ctx context.Context) error {
		if _, err := h.api.Call(ctx, http.MethodPost, "/IpamDriver.GetCapabilities", nil); err != nil {
			return err
		}
		_, err := h.Run(ctx, "weft", "status")
		return err
	})
}

// isMember says whether weft may change everything.
func (h *chaosHost) isMember() error {
	out, err := h.Run(h.Context(), "weft", "store", "status", "--json")
	if err != nil {
		return err
	}
	var st admin.StoreStatus
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return err
	}
	if !st.Up || st.Standing != "member" {
		return fmt.Errorf("up: %v, standing: %s (%s %s)", st.Up, st.Standing, st.Why, st.Reason)
	}
	return nil
}

// openPools makes the pools on all hosts, each with its gateway, as a network does.
func (x *chaos) openPools() {
	x.Helper()
	for _, h := range x.hosts {
		for _, subnet := range chaosPools() {
			answer, err := h.api.Call(x.Context(), http.MethodPost, "/IpamDriver.RequestPool", object{"AddressSpace": "weft-local", "Pool": subnet})
			x.must(err)
			var pool struct{ PoolID string }
			x.must(json.Unmarshal([]byte(answer), &pool))
			h.pools[subnet] = pool.PoolID
			if subnet == chaosWide {
				_, err = h.api.Call(x.Context(), http.MethodPost, "/IpamDriver.RequestAddress", object{"PoolID": pool.PoolID, "Address": chaosAux})
				x.must(err)
			}
			_, err = h.api.Call(x.Context(), http.MethodPost, "/IpamDriver.RequestAddress",
				object{"PoolID": pool.PoolID, "Options": object{"RequestAddressType": "com.docker.network.gateway"}})
			x.must(err)
		}
	}
}

// chaosUser is one caller.
type chaosUser struct {
	host string
	nr   int
}

func (u chaosUser) String() string { return fmt.Sprintf("%s/%d", u.host, u.nr) }

// chaosBook is what the callers were told. An address is held from the answer of
// its request until the call of its release begins.
type chaosBook struct {
	mu      sync.Mutex
	held    map[netip.Addr]chaosUser
	wrong   []string
	counts  map[string]int
	slowest map[string]time.Duration
}

func (b *chaosBook) took(a netip.Addr, who chaosUser) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other, twice := b.held[a]; twice {
		b.wrong = append(b.wrong, fmt.Sprintf("%v got %v, which %v holds", who, a, other))
	}
	b.held[a] = who
}

func (b *chaosBook) gives(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, a)
}

// of are the addresses of a subnet that a caller holds, or all callers of a host
// if nr is negative.
func (b *chaosBook) of(who chaosUser, subnet string) map[netip.Addr]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	prefix, out := netip.MustParsePrefix(subnet), map[netip.Addr]bool{}
	for a, u := range b.held {
		if u.host == who.host && (u.nr == who.nr || who.nr < 0) && prefix.Contains(a) {
			out[a] = true
		}
	}
	return out
}

func (b *chaosBook) accuse(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, fmt.Sprintf(format, args...))
}

// note counts a call.
func (b *chaosBook) note(what, outcome string, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[what+": "+outcome]++
	if took > 0 {
		b.slowest[what] = max(b.slowest[what], took)
	}
}

func (b *chaosBook) report(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(b.counts)) {
		t.Logf("%6d  %s", b.counts[what], what)
	}
	for _, what := range slices.Sorted(maps.Keys(b.slowest)) {
		t.Logf("slowest %s: %v", what, b.slowest[what].Round(time.Millisecond))
	}
}

// verdict fails the test if anything was wrong.
func (x *chaos) verdict() {
	x.Helper()
	x.book.mu.Lock()
	defer x.book.mu.Unlock()
	if len(x.book.wrong) > 0 {
		x.Fatalf("%d promises were broken:\n%s", len(x.book.wrong), strings.Join(x.book.wrong[:min(len(x.book.wrong), 20)], "\n"))
	}
}

// call calls a method. refused is the driver's answer if it is an error; ok says
// that there was any answer.
func (h *chaosHost) call(x *chaos, what, method string, doc object) (answer, refused string, ok bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.Context()), 3*chaosLimit)
	defer cancel()
	body, err := json.Marshal(doc)
	if err != nil {
		x.book.accuse("%v", err)
		return "", "", false
	}
	begin := time.Now()
	status, text, err := h.api.Send(ctx, http.MethodPost, "/IpamDriver."+method, body)
	took := time.Since(begin)
	if took > chaosLimit {
		x.book.accuse("%s: %s %v took %v: %s %v", h.Host.Name, method, doc, took, text, err)
	}
	switch {
	case err != nil:
		if !h.dying.Load() {
			x.book.accuse("%s: %s %v broke though weft was not killed: %v", h.Host.Name, method, doc, err)
		}
		x.book.note(what, "weft died", took)
		return "", "", false
	case status != http.StatusOK:
		x.book.note(what, reasonOf(text), took)
		return "", text, true
	}
	x.book.note(what, "ok", took)
	return text, "", true
}

// reasonOf makes a class of an error.
func reasonOf(text string) string {
	for word, class := range map[string]string{
		"are in use (": "refused, exhausted", "is not connected": "refused, owner not connected", "does not answer": "refused, owner silent",
		"which this host does not own": "refused, no store", "gateway or aux": "refused, shared", "belongs to host": "refused, in use there",
		"network address": "refused, reserved", "broadcast address": "refused, reserved", "of kind": "refused, in use here",
	} {
		if strings.Contains(text, word) {
			return class
		}
	}
	return text
}

// request asks for an address, any if want is empty, and books it.
func (h *chaosHost) request(x *chaos, who chaosUser, subnet, want string) (refused string, ok bool) {
	what := "dynamic " + path.Base(subnet)
	if want != "" {
		what = "explicit " + path.Base(subnet)
	}
	options := object{}
	if who.nr%2 == 0 { // as engines from 29.0 do
		options["com.docker.network.endpoint.name"] = who.String()
	}
	answer, refused, ok := h.call(x, what, "RequestAddress", object{"PoolID": h.pools[subnet], "Address": want, "Options": options})
	if !ok || refused != "" {
		return refused, ok
	}
	var got struct{ Address netip.Prefix }
	if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Address.Masked().String() != subnet || want != "" && got.Address.Addr().String() != want {
		x.book.accuse("%s: asked for %q of %s, got %s (%v)", h.Host.Name, want, subnet, answer, err)
	}
	x.book.took(got.Address.Addr(), who)
	return "", true
}

func (h *chaosHost) release(x *chaos, subnet string, a netip.Addr) {
	x.book.gives(a)
	if _, refused, _ := h.call(x, "release", "ReleaseAddress", object{"PoolID": h.pools[subnet], "Address": a.String()}); refused != "" {
		x.book.accuse("%s: release of %v: %s", h.Host.Name, a, refused)
	}
}

// populate starts the callers. end ends them and waits for it.
func (x *chaos) populate(seed uint64) (end func()) {
	ctx, cancel := context.WithCancel(x.Context())
	var wg sync.WaitGroup
	for i, h := range x.hosts {
		for nr := range chaosUsers {
			rng := rand.New(rand.NewPCG(seed, uint64(1+i*chaosUsers+nr)))
			wg.Go(func() { h.live(ctx, x, chaosUser{h.Host.Name, nr}, rng) })
		}
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// live is the life of one caller.
func (h *chaosHost) live(ctx context.Context, x *chaos, who chaosUser, rng *rand.Rand) {
	tick := time.NewTicker(chaosBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h.gate.RLock()
		h.act(x, who, rng)
		h.gate.RUnlock()
	}
}

// act is one call. All callers together want more than there is.
func (h *chaosHost) act(x *chaos, who chaosUser, rng *rand.Rand) {
	subnet, most := chaosWide, 20
	if rng.IntN(2) == 0 {
		subnet, most = chaosNarrow, 3
	}
	mine := addrs(x.book.of(who, subnet))
	switch dice := rng.IntN(100); {
	case len(mine) > 0 && (len(mine) >= most || dice < 45):
		h.release(x, subnet, mine[rng.IntN(len(mine))])
	case dice < 85:
		h.request(x, who, subnet, "")
	default:
		p := netip.MustParsePrefix(subnet)
		last := p.Addr().As4()
		last[3] += byte(rng.IntN(1 << (32 - p.Bits())))
		h.request(x, who, subnet, netip.AddrFrom4(last).String())
	}
}

// storm breaks and repairs things, one beat a second.
func (x *chaos) storm(seconds int) {
	x.Helper()
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	acts := []func() bool{
		x.loseMember, x.loseMember, x.hangMember, x.blackout,
		x.cutLink, x.cutLink, x.cutLink, x.killWeft, x.killWeft, x.killWeft,
	}
	var deck []func() bool
	for end := x.begin.Add(time.Since(x.begin) + time.Duration(seconds)*time.Second); time.Now().Before(end); x.tick++ {
		<-beat.C
		x.verdict()
		for _, target := range slices.Sorted(maps.Keys(x.faults)) {
			f := x.faults[target]
			x.probe(f)
			if x.tick >= f.until {
				x.repair(target)
			}
		}
		if len(deck) == 0 {
			deck = slices.Clone(acts)
			x.rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		if len(x.faults) < 3 && deck[0]() {
			deck = deck[1:]
		}
	}
}

func (x *chaos) repair(target string) {
	x.Helper()
	f := x.faults[target]
	delete(x.faults, target)
	x.happens("repair: %s", target)
	f.heal()
}

// breaks notes a fault that lasts a few beats.
func (x *chaos) breaks(target string, least, most int, f fault) {
	f.since, f.until = x.tick, x.tick+least+x.rng.IntN(most-least+1)
	x.faults[target] = &f
	x.happens("break: %s for %d s", target, f.until-f.since)
}

// broken reports whether a target of this sort has a fault.
func (x *chaos) broken(sort string) bool {
	for target := range x.faults {
		if strings.HasPrefix(target, sort) {
			return true
		}
	}
	return false
}

// loseMember kills one member of the store.
func (x *chaos) loseMember() bool {
	return x.member("killed", 1, x.store.Kill, x.store.Start)
}

// hangMember stops one member of the store in its tracks.
func (x *chaos) hangMember() bool {
	return x.member("paused", 1, x.store.Pause, x.store.Resume)
}

// blackout takes the quorum away for a moment.
func (x *chaos) blackout() bool {
	if x.rng.IntN(2) == 0 {
		return x.member("killed", 2, x.store.Kill, x.store.Start)
	}
	return x.member("paused", 2, x.store.Pause, x.store.Resume)
}

func (x *chaos) member(how string, n int, ends, begins func(context.Context, ...*lab.Host) error) bool {
	if x.broken("etcd") {
		return false
	}
	var hosts []*lab.Host
	var names []string
	for _, i := range x.rng.Perm(3)[:n] {
		hosts = append(hosts, x.hosts[i].Host)
		names = append(names, x.hosts[i].Host.Name)
	}
	x.must(ends(x.Context(), hosts...))
	f := fault{heal: func() { x.must(begins(x.Context(), hosts...)) }}
	if n > 1 {
		f.cut = x.hosts
	}
	x.breaks(fmt.Sprintf("etcd of %s %s", strings.Join(names, " and "), how), 2, 6, f)
	return true
}

// cutLink pulls the cable of a host, with a member of the store on it or not.
func (x *chaos) cutLink() bool {
	h := x.hosts[x.rng.IntN(len(x.hosts))]
	if x.broken("link") {
		return false
	}
	x.must(h.CutLink(x.Context()))
	x.breaks("link of "+h.Host.Name, 2, 8, fault{cut: []*chaosHost{h}, heal: func() { x.must(h.HealLink(x.Context())) }})
	return true
}

// killWeft kills weft on a host. Its journal must have what was promised.
func (x *chaos) killWeft() bool {
	h := x.hosts[x.rng.IntN(len(x.hosts))]
	if x.broken("weft of " + h.Host.Name) {
		return false
	}
	h.kill()
	x.breaks("weft of "+h.Host.Name, 0, 7, fault{heal: func() { x.revive(h) }})
	owners, err := x.ownersNow()
	if err != nil {
		x.happens("the store does not say who owns what: %.100v", err)
	}
	x.inspect(h, owners)
	return true
}

// kill kills weft and stops its callers.
func (h *chaosHost) kill() {
	h.dying.Store(true)
	h.runs[len(h.runs)-1].Stop()
	h.gate.Lock()
	h.api.CloseIdleConnections()
}

// revive starts weft again. What requests that weft did not answer had got, is
// released; what was answered has to be there.
func (x *chaos) revive(h *chaosHost) {
	x.Helper()
	begin := time.Now()
	x.must(h.start(x.store))
	x.must(h.await())
	if took := time.Since(begin); took > chaosLimit {
		x.book.accuse("%s: weft was back after %v only", h.Host.Name, took)
	}
	h.dying.Store(false)
	for _, subnet := range chaosPools() {
		used, held := h.used(subnet), x.book.of(chaosUser{h.Host.Name, -1}, subnet)
		for a := range held {
			if !used[a] {
				x.book.accuse("%s: after a restart weft does not know that %v is in use", h.Host.Name, a)
			}
		}
		for a := range used {
			if !held[a] {
				h.release(x, subnet, a)
			}
		}
	}
	h.gate.Unlock()
}

// probe makes sure that a host that is cut off from the store hands out a free
// address of its own. So that it has one, one is released before.
func (x *chaos) probe(f *fault) {
	x.Helper()
	if f.probed || len(f.cut) == 0 || x.tick < f.since+2 {
		return
	}
	f.probed = true
	h := f.cut[x.rng.IntN(len(f.cut))]
	if h.dying.Load() {
		return
	}
	h.gate.Lock()
	defer h.gate.Unlock()
	for _, subnet := range chaosPools() {
		all := addrs(x.book.of(chaosUser{h.Host.Name, -1}, subnet))
		if len(all) == 0 {
			continue
		}
		a := all[x.rng.IntN(len(all))]
		x.book.mu.Lock()
		who := x.book.held[a]
		x.book.mu.Unlock()
		h.release(x, subnet, a)
		begin := time.Now()
		if refused, _ := h.request(x, who, subnet, ""); refused != "" {
			x.book.accuse("%s is cut off, owns %v, and refuses after %v: %s", h.Host.Name, a, time.Since(begin), refused)
		}
		x.book.note("probe of a host without the store", "ok", time.Since(begin))
	}
}

// ownersNow are the owners of all addresses, by the store, if it has a quorum.
func (x *chaos) ownersNow() (map[netip.Addr]string, error) {
	x.Helper()
	lame := map[string]bool{}
	for target := range x.faults {
		for _, h := range x.store.Members() {
			if !strings.HasPrefix(target, "weft") && strings.Contains(target, h.Name) {
				lame[h.Name] = true
			}
		}
	}
	if len(lame) > 1 {
		return nil, errors.New("it has no quorum")
	}
	all := map[netip.Addr]string{}
	for _, subnet := range chaosPools() {
		some, err := x.owners(subnet)
		if err != nil && strings.Contains(err.Error(), "both own") {
			x.book.accuse("%v", err)
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(all, some)
	}
	return all, nil
}

// inspect opens the journal of a host whose weft is dead: it has every address
// that the callers hold, and owns each. What it owns, it owns in the store too, if
// owners is not nil.
func (x *chaos) inspect(h *chaosHost, owners map[netip.Addr]string) {
	x.Helper()
	j, err := journal.Open(fmt.Sprintf("/proc/%d/root/var/lib/weft/journal.db", h.PID()))
	x.must(err)
	type owned struct{ Own, Leaving uint64 }
	type address struct {
		Kind  string
		Freed uint64
	}
	chunks, err := journal.Load[owned](j, "ipam-owned")
	x.must(err)
	addresses, err := journal.Load[address](j, "ipam-addresses")
	x.must(errors.Join(err, j.Close()))
	own, used := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for key, c := range chunks {
		for a, mask := netip.MustParseAddr(path.Base(key)), c.Own; mask != 0; a, mask = a.Next(), mask>>1 {
			own[a] = own[a] || mask&1 != 0
		}
		if c.Own&c.Leaving != 0 {
			x.book.accuse("%s: %s is its own and leaving: %x %x", h.Host.Name, key, c.Own, c.Leaving)
		}
	}
	for key, rec := range addresses {
		if a := netip.MustParseAddr(path.Base(key)); rec.Freed == 0 && rec.Kind == "endpoint" {
			used[a] = true
			if !own[a] {
				x.book.accuse("%s: the journal uses %v and does not own it", h.Host.Name, a)
			}
		}
	}
	for _, subnet := range chaosPools() {
		for a := range x.book.of(chaosUser{h.Host.Name, -1}, subnet) {
			if !used[a] {
				x.book.accuse("%s: the journal lacks %v, which a caller holds", h.Host.Name, a)
			}
		}
	}
	for a := range own {
		if owners != nil && own[a] && owners[a] != h.id {
			x.book.accuse("%s (%s): the journal owns %v, which %q owns in the store", h.Host.Name, h.id, a, owners[a])
		}
	}
	x.book.note("journal", fmt.Sprintf("looked at, compared with the store: %v", owners != nil), 0)
}

// calm repairs everything and waits until all hosts are members again.
func (x *chaos) calm() {
	x.Helper()
	for _, target := range slices.Sorted(maps.Keys(x.faults)) {
		x.repair(target)
	}
	x.must(x.store.Await(x.Context()))
	for _, h := range x.hosts {
		x.comesTrue(h.Host.Name+" to be a member again", h.isMember)
	}
	x.happens("all is repaired")
	// With everything well, each host soon gets addresses in both pools again.
	for _, h := range x.hosts {
		for _, subnet := range chaosPools() {
			x.comesTrue(h.Host.Name+" to get an address of "+subnet, func() error {
				refused, ok := h.request(x, chaosUser{h.Host.Name, 0}, subnet, "")
				if !ok {
					x.Fatalf("%s: weft does not answer", h.Host.Name)
				}
				if refused != "" {
					return errors.New(refused)
				}
				return nil
			})
		}
	}
	x.verdict()
}

// agreement waits until the callers, the books of all hosts and the store say the
// same.
func (x *chaos) agreement() {
	x.Helper()
	x.comesTrue("callers, weft and the store to agree", func() error {
		for _, subnet := range chaosPools() {
			owners, err := x.owners(subnet)
			if err != nil {
				return err
			}
			for _, h := range x.hosts {
				held := x.book.of(chaosUser{h.Host.Name, -1}, subnet)
				if used := h.used(subnet); !maps.Equal(held, used) {
					return fmt.Errorf("%s: callers hold %v, weft says %v", h.Host.Name, addrs(held), addrs(used))
				}
				for a := range held {
					if owners[a] != h.id {
						return fmt.Errorf("%s (%s) uses %v, which %q owns", h.Host.Name, h.id, a, owners[a])
					}
				}
			}
		}
		return nil
	})
	x.verdict()
}

// noAsks waits until no host asks another one. What is left is told together with
// everything else that is wrong.
func (x *chaos) noAsks() {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.Context(), 15*time.Second)
	defer cancel()
	err := lab.Until(ctx, "all asks to go", func(context.Context) error {
		keys, err := x.store.Get(x.Context(), "weft/ask/")
		if err != nil || len(keys) == 0 {
			return err
		}
		answers := map[string]int{}
		for _, value := range keys {
			var ask struct{ Refused string }
			if err := json.Unmarshal([]byte(value), &ask); err != nil {
				return err
			}
			answers[ask.Refused]++
		}
		return fmt.Errorf("%d asks are left, by their answers: %v", len(keys), answers)
	})
	if err != nil {
		x.Error(err)
	}
}

// journals ends weft everywhere at once, compares all journals with the store and
// starts weft again.
func (x *chaos) journals() {
	x.Helper()
	for _, h := range x.hosts {
		h.kill()
	}
	owners, err := x.ownersNow()
	x.must(err)
	for _, h := range x.hosts {
		x.inspect(h, owners)
	}
	for _, h := range x.hosts {
		x.revive(h)
	}
	for _, h := range x.hosts {
		x.comesTrue(h.Host.Name+" to be a member", h.isMember)
	}
	x.verdict()
}

// handOutAgain releases everything, and lets one host have all addresses.
func (x *chaos) handOutAgain() {
	x.Helper()
	for _, subnet := range chaosPools() {
		for _, h := range x.hosts {
			for a := range x.book.of(chaosUser{h.Host.Name, -1}, subnet) {
				h.release(x, subnet, a)
			}
		}
		h := x.hosts[x.rng.IntN(len(x.hosts))]
		// Without network and broadcast address, gateway, and aux address.
		want := 1<<(32-netip.MustParsePrefix(subnet).Bits()) - 3
		if subnet == chaosWide {
			want--
		}
		begin := time.Now()
		for i := range want {
			if refused, ok := h.request(x, chaosUser{h.Host.Name, 0}, subnet, ""); !ok || refused != "" {
				x.Fatalf("%s has %d of %d addresses of %s and gets no more: %s", h.Host.Name, i, want, subnet, refused)
			}
		}
		x.Logf("%s has all %d addresses of %s after %v", h.Host.Name, want, subnet, time.Since(begin).Round(time.Millisecond))
		if refused, _ := h.request(x, chaosUser{h.Host.Name, 0}, subnet, ""); !strings.Contains(refused, "are in use (") {
			x.Errorf("%s: one more address of %s: %q", h.Host.Name, subnet, refused)
		}
	}
	x.agreement()
}
