//go:build bench

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/store/storetest"
	"github.com/weft-net/weft/test/bench/board"
)

// TestIPAM measures the address book of real processes on a real etcd of three
// members. Its data and the journals are on the disk of the tree.
func TestIPAM(t *testing.T) {
	etcd := storetest.Start(t, storetest.Config{Version: "3.5", Members: 3})
	b := &board.Board{}
	defer b.Print(t)
	t.Run("latency", func(t *testing.T) { latency(t, etcd, b) })
	t.Run("rate", func(t *testing.T) { rate(t, etcd, b) })
	t.Run("transactions", func(t *testing.T) { blocking(t, etcd, b) })
	t.Run("fill", func(t *testing.T) { fill(t, etcd, b) })
	t.Run("size", func(t *testing.T) { size(t, etcd, b) })
}

// disk is what the disk alone costs: a commit of the journal waits for it twice.
type disk struct{ *os.File }

func newDisk(t *testing.T) disk {
	t.Helper()
	f, err := os.Create(newDir(t) + "/sync")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return disk{f}
}

func (d disk) syncs(t *testing.T, n int) (took []time.Duration) {
	t.Helper()
	for range n {
		begin := time.Now()
		for page := range int64(2) {
			_, err := d.WriteAt(make([]byte, 4096), page*65536)
			if err := errors.Join(err, syscall.Fdatasync(int(d.Fd()))); err != nil {
				t.Fatal(err)
			}
		}
		took = append(took, time.Since(begin))
	}
	return took
}

// latency measures one caller, with the store and right after its end. The disk
// alone is measured in between.
func latency(t *testing.T, etcd *storetest.Cluster, b *board.Board) {
	const rounds, blocks, each = 4, 5, 100
	w, d := startWeft(t, etcd.Endpoints()), newDisk(t)
	pool := w.pool("10.1.0.0/16")
	if _, _, err := w.many(pool, 1, 200); err != nil { // warms up
		t.Fatal(err)
	}
	var up, down, released, alone []time.Duration
	round := func(took *[]time.Duration) (all []netip.Addr) {
		for range blocks {
			got, times, err := w.many(pool, 1, each)
			if err != nil {
				t.Fatal(err)
			}
			all, *took = append(all, got...), append(*took, times...)
			alone = append(alone, d.syncs(t, each)...)
		}
		return all
	}
	for range rounds {
		released = append(released, w.release(pool, round(&up))...)
		etcd.Stop()
		round(&down)
		etcd.StartAll()
		w.awaitMember()
	}
	show := func(what string, all []time.Duration) {
		b.Note(what+", p50, p99, slowest", "%v  %v  %v  (%d)", board.Quantile(all, 0.5).Round(time.Microsecond),
			board.Quantile(all, 0.99).Round(time.Microsecond), slices.Max(all).Round(time.Microsecond), len(all))
	}
	show("two fdatasyncs of 4 KiB in between, for comparison", alone)
	for i, all := range [][]time.Duration{up, down} {
		what := "RequestAddress, one caller, " + []string{"with the store", "with the store stopped"}[i]
		show(what, all)
		b.AtMost("  p50", board.Quantile(all, 0.5), time.Millisecond)
		b.AtMost("  p99", board.Quantile(all, 0.99), 5*time.Millisecond)
	}
	show("ReleaseAddress, one caller", released)
}

// rate measures 32 callers on one host, each round on a new pool.
func rate(t *testing.T, etcd *storetest.Cluster, b *board.Board) {
	const callers, each, least = 32, 6000, 2000
	w := startWeft(t, etcd.Endpoints())
	var rates []float64
	for i := range 3 {
		pool := w.pool(fmt.Sprintf("10.%d.0.0/16", 10+i))
		begin := time.Now()
		if _, _, err := w.many(pool, callers, each); err != nil {
			t.Fatal(err)
		}
		rates = append(rates, each/time.Since(begin).Seconds())
	}
	b.Add(slices.Min(rates) < least, fmt.Sprintf("addresses/s, one host, %d callers, worst of %d", callers, len(rates)), fmt.Sprintf("≥ %d", least),
		"%.0f (%.0f to %.0f)", slices.Min(rates), slices.Min(rates), slices.Max(rates))
}

// blocking counts what a /20 costs the store. All transactions are counted, those
// that no request waited for too, by etcd's own counter of answered calls: what a
// request waited for is among them.
func blocking(t *testing.T, etcd *storetest.Cluster, b *board.Board) {
	const n, most = 3200, 3200/64 + 2 // the first chunk is not whole, and the last is fetched ahead
	w := startWeft(t, etcd.Endpoints())
	for i, callers := range []int{1, 32} {
		pool := w.pool(fmt.Sprintf("10.20.%d.0/20", 16*i))
		before, rev := transactions(t, etcd), etcd.Rev()
		if _, _, err := w.many(pool, callers, n); err != nil {
			t.Fatal(err)
		}
		txns := transactions(t, etcd) - before
		b.Add(txns > most, fmt.Sprintf("/20, %d callers: store transactions for %d addresses", callers, n), fmt.Sprintf("≤ %d", most),
			"%d (the revision grew by %d)", txns, etcd.Rev()-rev)
	}
	slowStore(t, etcd, b, w)
}

// slowStore lets the store hang most of the time, so that a request that waits for
// it shows. The same requests again, of addresses that the host owns by now, are
// the control: what is slow there waited for something else.
func slowStore(t *testing.T, etcd *storetest.Cluster, b *board.Board, w *weft) {
	t.Helper()
	const n, most, slow = 1600, 1600/64 + 2, 8 * time.Millisecond
	pool := w.pool("10.20.64.0/20")
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		hang(etcd, end)
	}()
	count := func() (got []netip.Addr, waited int) {
		got, took, err := w.many(pool, 1, n)
		if err != nil {
			t.Error(err)
		}
		return got, len(slices.DeleteFunc(took, func(d time.Duration) bool { return d < slow }))
	}
	got, waited := count()
	w.release(pool, got)
	_, control := count()
	close(end)
	<-ended
	b.Add(waited-control > most, fmt.Sprintf("/20, 1 caller, slow store: of %d requests took ≥ %v", n, slow), fmt.Sprintf("≤ %d more than the control", most),
		"%d, control %d", waited, control)
}

// hang stops all members of a store for 20 ms of every 25.
func hang(etcd *storetest.Cluster, end <-chan struct{}) {
	for {
		for _, phase := range []struct {
			length time.Duration
			do     func(int)
		}{{20 * time.Millisecond, etcd.Pause}, {5 * time.Millisecond, etcd.Resume}} {
			for i := range etcd.Members() {
				phase.do(i)
			}
			select {
			case <-time.After(phase.length):
			case <-end:
				for i := range etcd.Members() {
					etcd.Resume(i)
				}
				return
			}
		}
	}
}

func openStore(t *testing.T, etcd *storetest.Cluster) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Endpoints: etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	storetest.Eventually(t, 10*time.Second, "the store answers", func() error {
		if !s.Up() {
			return errors.New(s.Status().Why)
		}
		return nil
	})
	return s
}

// fill lets 16 processes take addresses of one /16 at once, against 16 clients that
// share one key per pool. Each process takes 1,024, a quarter of the /16 together:
// what the rest costs is the same until the last sixteenth, where batches shrink.
// Each round has the clients twice, as a control, and once reading the key before
// each try, as libnetwork's bitmap in a store did.
func fill(t *testing.T, etcd *storetest.Cluster, b *board.Board) {
	const hosts, callers, each, rounds, least = 16, 32, 1024, 3, 20
	var stores []*store.Store
	for range hosts {
		stores = append(stores, openStore(t, etcd))
	}
	var all []*weft
	for range hosts {
		all = append(all, startWeft(t, etcd.Endpoints()))
	}
	var one, again, reading, ours []float64
	var weftTime, benchTime, allTime time.Duration
	for round := range rounds {
		one = append(one, oneKey(t, stores, fmt.Sprintf("bench/one-%d", round), false))
		beforeWeft, beforeBench, beforeAll := cpuTimes(t, all)
		ours = append(ours, together(t, all, fmt.Sprintf("10.%d.0.0/16", 40+round), callers, each))
		weftNow, benchNow, allNow := cpuTimes(t, all)
		weftTime, benchTime, allTime = weftTime+weftNow-beforeWeft, benchTime+benchNow-beforeBench, allTime+allNow-beforeAll
		again = append(again, oneKey(t, stores, fmt.Sprintf("bench/again-%d", round), false))
		reading = append(reading, oneKey(t, stores, fmt.Sprintf("bench/reading-%d", round), true))
	}
	base := append(slices.Clone(one), again...)
	b.Note("16 clients, one key per pool, addresses/s", "%.0f (%.0f to %.0f); control %.2f", board.Quantile(base, 0.5), slices.Min(base), slices.Max(base), board.Quantile(again, 0.5)/board.Quantile(one, 0.5))
	b.Note(fmt.Sprintf("16 hosts in one /16, %d callers each, addresses/s", callers), "%.0f (%.0f to %.0f)", board.Quantile(ours, 0.5), slices.Min(ours), slices.Max(ours))
	b.Note("  processor time per address: weft, this benchmark's callers, the rest of the machine (etcd and others)", "%v  %v  %v", weftTime/(hosts*each*rounds),
		benchTime/(hosts*each*rounds), (allTime-weftTime-benchTime)/(hosts*each*rounds))
	ratio := board.Quantile(ours, 0.5) / board.Quantile(base, 0.5)
	b.Add(ratio < least, "  ratio of the medians", fmt.Sprintf("≥ %d", least), "%.1f", ratio)
	b.Note("  against clients that read the key before each try", "%.1f (%.0f addresses/s)", board.Quantile(ours, 0.5)/board.Quantile(reading, 0.5), board.Quantile(reading, 0.5))
}

// oneKey is the rate of clients that allocate by compare-and-swap on one key. The
// value is a few bytes, not a bitmap: nothing could be faster on one key. A client
// that lost tries again with what the answer says the key is now; with reads, every
// try begins with a read.
func oneKey(t *testing.T, stores []*store.Store, key string, reads bool) float64 {
	t.Helper()
	const length = 3 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	counts, errs := make([]int, len(stores)), make([]error, len(stores))
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			next, rev := 0, int64(0)
			for ctx.Err() == nil && errs[i] == nil {
				if reads {
					kv, _, err := s.Get(t.Context(), key)
					if next, rev = 0, kv.Rev; rev > 0 && err == nil {
						next, err = strconv.Atoi(string(kv.Value))
					}
					if errs[i] = err; err != nil {
						return
					}
				}
				res, err := s.Commit(t.Context(), store.Txn{
					If:   []store.Cond{store.Unchanged(key, rev)},
					Then: []store.Op{store.Put(key, []byte(strconv.Itoa(next+1)))},
				})
				switch {
				case err != nil:
					errs[i] = err
					return
				case res.OK:
					counts[i]++
					next, rev = next+1, res.Rev
				case len(res.Now) > 0:
					rev = res.Now[0].Rev
					next, errs[i] = strconv.Atoi(string(res.Now[0].Value))
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / length.Seconds()
}

// together is the rate of all hosts until the last one is done. No address comes
// twice.
func together(t *testing.T, all []*weft, subnet string, callers, each int) float64 {
	t.Helper()
	pools := make([]string, len(all))
	for i, w := range all {
		pools[i] = w.pool(subnet)
	}
	got, errs := make([][]netip.Addr, len(all)), make([]error, len(all))
	begin := time.Now()
	var wg sync.WaitGroup
	for i, w := range all {
		wg.Go(func() { got[i], _, errs[i] = w.many(pools[i], callers, each) })
	}
	wg.Wait()
	took := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	for _, list := range got {
		for _, a := range list {
			if seen[a] {
				t.Fatalf("%v was handed out twice", a)
			}
			seen[a] = true
		}
	}
	return float64(len(seen)) / took.Seconds()
}

// size measures a host with 10,000 addresses in use: its memory, and its starts
// with and without the store.
func size(t *testing.T, etcd *storetest.Cluster, b *board.Board) {
	const n, starts, mostMB = 10000, 5, 40
	w := startWeft(t, etcd.Endpoints())
	pool := w.pool("10.60.0.0/16")
	if _, _, err := w.many(pool, 32, n); err != nil {
		t.Fatal(err)
	}
	b.Add(w.rss() > mostMB, "RSS with 10,000 addresses, right after they were taken", "≤ 40 MB", "%.1f MB", w.rss())
	ready := func() (took []time.Duration) {
		for range starts {
			w.kill()
			took = append(took, w.timeToReady(pool))
		}
		return took
	}
	up := ready()
	w.awaitMember()
	b.Add(w.rss() > mostMB, "RSS with 10,000 addresses, after a start", "≤ 40 MB", "%.1f MB", w.rss())
	etcd.Stop()
	down := ready()
	etcd.StartAll()
	b.AtMost(fmt.Sprintf("ready after a start with 10,000 addresses, slowest of %d", starts), slices.Max(up), time.Second)
	b.AtMost("the same with the store stopped", slices.Max(down), time.Second)
}

// timeToReady starts weft and returns after how long it answered a request.
func (w *weft) timeToReady(pool string) time.Duration {
	w.t.Helper()
	begin := time.Now()
	w.start()
	var took time.Duration
	storetest.Eventually(w.t, 20*time.Second, "weft hands out an address", func() error {
		c, err := w.tryDial()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.get(pool)
		took = time.Since(begin)
		return err
	})
	return took
}
