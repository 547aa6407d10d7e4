package ownership_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

var (
	chunk  = netip.MustParseAddr("10.0.0.0")
	subnet = netip.MustParsePrefix("10.0.0.0/26")
)

func addr(i int) netip.Addr { return ownership.Addrs(chunk, 1<<i)[0] }

// plans describes what a pool does next.
func plans(p *ownership.Pool) string {
	var out []string
	for _, t := range p.Tasks() {
		if t.Entry != nil {
			out = append(out, fmt.Sprintf("journal own=%x leaving=%x", t.Entry.Own, t.Entry.Leaving))
			p.Wrote(t)
			continue
		}
		s := fmt.Sprintf("store if %d put %s", t.Txn.If[0].Rev, t.Txn.Then[0].Value)
		for _, c := range t.Txn.If[1:] {
			s += fmt.Sprintf(" if %s at %d", c.Key, c.Rev)
		}
		for _, op := range t.Txn.Then[1:] {
			s += " delete " + op.Key
		}
		out = append(out, s)
		p.Committed(t, store.Result{OK: true, Rev: t.Txn.If[0].Rev + 1}, nil)
	}
	return strings.Join(out, "; ")
}

func TestPlans(t *testing.T) {
	type entries = map[netip.Addr]ownership.Entry
	ask := ownership.Ask{Key: "ask/a/1", Rev: 9, From: "b", Pool: "own/1/", Address: addr(1)}
	for name, c := range map[string]struct {
		entry  ownership.Entry
		record string // at revision 5
		do     func(p *ownership.Pool)
		want   []string
	}{
		"nothing to do": {ownership.Entry{Own: 2}, `{"v":1,"own":{"a":"2"}}`, nil, []string{""}},
		"taken by an earlier run": {ownership.Entry{}, `{"v":1,"own":{"a":"2"}}`, nil, []string{
			"journal own=2 leaving=0", ""}},
		"take: store, then journal": {ownership.Entry{}, "", func(p *ownership.Pool) { p.Fetch(subnet, 2, 1) }, []string{
			`store if 0 put {"v":1,"own":{"a":"0000000000000006"}}`, "journal own=6 leaving=0", ""}},
		"dead ones come last": {ownership.Entry{}, `{"v":1,"own":{"b":"7ffffffffffffff0"},"dead":{"c":"6"}}`, func(p *ownership.Pool) { p.Fetch(subnet, 8, 1) }, []string{
			`store if 5 put {"v":1,"own":{"a":"8000000000000008","b":"7ffffffffffffff0"},"dead":{"c":"0000000000000006"}}`, "journal own=8000000000000008 leaving=0", ""}},
		"give to nobody: journal, then store": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"6"}}`,
			func(p *ownership.Pool) { p.Trim(subnet, 1, func(netip.Addr) bool { return true }) }, []string{
				"journal own=2 leaving=4", `store if 5 put {"v":1,"own":{"a":"0000000000000002"}}`, "journal own=2 leaving=0", ""}},
		"hand over": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"6"}}`, func(p *ownership.Pool) { p.Answer(ask) }, []string{
			"journal own=4 leaving=2", `store if 5 put {"v":1,"own":{"a":"0000000000000004","b":"0000000000000002"}} if ask/a/1 at 9 delete ask/a/1`, "journal own=4 leaving=0", ""}},
		"what came into use stays": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"6"}}`,
			func(p *ownership.Pool) { p.Answer(ask); p.Use(addr(1), true) }, []string{""}},
		"share an own address": {ownership.Entry{Own: 2}, `{"v":1,"own":{"a":"2"}}`, func(p *ownership.Pool) { p.Share(addr(1), "gateway", true) }, []string{
			"journal own=0 leaving=2", `store if 5 put {"v":1,"shared":{"1":{"kind":"gateway","by":["a"]}}}`, "journal own=0 leaving=0", ""}},
		"share no more": {ownership.Entry{}, `{"v":1,"shared":{"1":{"kind":"gateway","by":["a","b"]}}}`, nil, []string{
			`store if 5 put {"v":1,"shared":{"1":{"kind":"gateway","by":["b"]}}}`, ""}},
		"leaving at the start: the record is written again first": {ownership.Entry{Leaving: 2}, `{"v":1,"own":{"a":"2"}}`, nil, []string{
			`store if 5 put {"v":1,"own":{"a":"0000000000000002"}}`, "journal own=2 leaving=0", ""}},
		"leaving at the start, and gone": {ownership.Entry{Leaving: 2}, `{"v":1,"own":{"b":"2"}}`, nil, []string{
			`store if 5 put {"v":1,"own":{"b":"0000000000000002"}}`, "journal own=0 leaving=0", ""}},
		"frozen": {ownership.Entry{Leaving: 2}, `{"v":1,"own":{"a":"3"}}`, func(p *ownership.Pool) { p.SetMode(ownership.Frozen, nil) }, []string{""}},
		"recover": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"9","b":"4"},"dead":{"c":"2"}}`, func(p *ownership.Pool) { p.SetMode(ownership.Recovering, nil) }, []string{
			`store if 5 put {"v":1,"own":{"a":"0000000000000006"}}`, ""}},
		"recover after another host told": {ownership.Entry{Own: 6}, `{"v":1,"own":{"b":"4"}}`,
			func(p *ownership.Pool) { p.SetMode(ownership.Recovering, []ownership.Host{"b"}) }, []string{
				"journal own=2 leaving=0", `store if 5 put {"v":1,"own":{"a":"0000000000000002","b":"0000000000000004"}}`, ""}},
		"a wish to share is not told": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"6"}}`,
			func(p *ownership.Pool) {
				p.Share(addr(3), "gateway", true)
				p.SetMode(ownership.Recovering, nil)
			}, []string{""}},
		"a shared address in use is told": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"6"}}`,
			func(p *ownership.Pool) {
				p.Share(addr(3), "gateway", true)
				p.Use(addr(3), true)
				p.SetMode(ownership.Recovering, nil)
			}, []string{`store if 5 put {"v":1,"own":{"a":"0000000000000006"},"shared":{"3":{"kind":"gateway","by":["a"]}}}`, ""}},
		"closing": {ownership.Entry{Own: 6}, `{"v":1,"own":{"a":"6"}}`, func(p *ownership.Pool) { p.Use(addr(1), true); p.Close(true) }, []string{
			"journal own=2 leaving=4", `store if 5 put {"v":1,"own":{"a":"0000000000000002"}}`, "journal own=2 leaving=0", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, subnet.String(), nil)
			if c.entry != (ownership.Entry{}) {
				p = newPool(t, subnet.String(), entries{chunk: c.entry})
			}
			var kvs []store.KV
			if c.record != "" {
				kvs = []store.KV{{Key: p.Key(chunk), Value: []byte(c.record), Rev: 5, Created: 5}}
			}
			p.Reset(kvs, 5)
			if c.do != nil {
				c.do(p)
			}
			for i, want := range c.want {
				if got := plans(p); got != want {
					t.Fatalf("step %d is %q, want %q", i, got, want)
				}
			}
		})
	}
}

func TestUnknownOutcomeIsSettledByATransaction(t *testing.T) {
	p := newPool(t, subnet.String(), map[netip.Addr]ownership.Entry{chunk: {Own: 2}})
	value := []byte(`{"v":1,"own":{"a":"2"}}`)
	p.Reset([]store.KV{{Key: p.Key(chunk), Value: value, Rev: 5}}, 5)
	p.Trim(subnet, 0, func(netip.Addr) bool { return true })
	if got := plans(p); got != "journal own=0 leaving=2" {
		t.Fatal(got)
	}
	task := p.Tasks()[0]
	p.Committed(task, store.Result{}, store.ErrUnknown)
	p.Want(addr(1)) // it shall stay after all
	p.Reset([]store.KV{{Key: p.Key(chunk), Value: value, Rev: 5}}, 6)
	if p.Avail(addr(1)) || len(p.Tasks()) > 0 {
		t.Fatal("a read was trusted, or the wait for Kick was not kept")
	}
	p.Kick()
	for _, want := range []string{`store if 5 put {"v":1,"own":{"a":"0000000000000002"}}`, "journal own=2 leaving=0", ""} {
		if got := plans(p); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	if !p.Avail(addr(1)) {
		t.Error("it did not stay")
	}
}

func TestARecordOfANewerVersionIsLeftAlone(t *testing.T) {
	p := newPool(t, subnet.String(), nil)
	p.Reset([]store.KV{{Key: p.Key(chunk), Value: []byte(`{"v":2}`), Rev: 5}}, 5)
	if p.Fetch(subnet, 1, 1) != 0 || len(p.Tasks()) > 0 || len(p.Bad()) != 1 {
		t.Error("the record was touched")
	}
	p.Observe(store.KV{Key: p.Key(chunk), Value: []byte(`{"v":1}`), Rev: 6})
	if p.Fetch(subnet, 1, 1) != 1 || len(p.Bad()) != 0 {
		t.Error("the record was not believed")
	}
}

// TestSharesWaitsForAChange asks for an address to be shared again while the end of
// that is on its way.
func TestSharesWaitsForAChange(t *testing.T) {
	p := newPool(t, subnet.String(), nil)
	p.Share(addr(1), "gateway", true)
	p.Reset([]store.KV{{Key: p.Key(chunk), Value: []byte(`{"v":1,"shared":{"1":{"kind":"gateway","by":["a"]}}}`), Rev: 5}}, 5)
	if !p.Shares(addr(1)) {
		t.Fatal("not shared")
	}
	p.Share(addr(1), "gateway", false)
	task := p.Tasks()[0]
	p.Share(addr(1), "gateway", true)
	if p.Shares(addr(1)) {
		t.Error("shared, and about to end")
	}
	p.Committed(task, store.Result{OK: true, Rev: 6}, nil)
	if p.Shares(addr(1)) {
		t.Error("shared, though it ended")
	}
}

func TestFirstSharedAddress(t *testing.T) {
	p := ownership.NewPool(ownership.Config{Me: "a", Prefix: "own/1/", Subnet: subnet}, nil)
	p.Reset([]store.KV{{Key: p.Key(chunk), Value: []byte(`{"v":1}`), Rev: 5}}, 5)
	p.ShareFirst(addr(2), "gateway")
	late := p.Tasks()
	if len(late) != 1 || late[0].Txn == nil {
		t.Fatalf("the first one is shared: %v", late)
	}
	// Another host chose another address, and was faster.
	faster := store.KV{Key: p.Key(chunk), Value: []byte(`{"v":1,"shared":{"1":{"kind":"gateway","by":["b"]}}}`), Rev: 6}
	p.Committed(late[0], store.Result{Rev: 6, Now: []store.KV{faster}}, nil)
	if got := plans(p); got != "" {
		t.Fatalf("two gateways: %s", got)
	}
	if a, ok := p.SharedKind("gateway"); !ok || a != addr(1) {
		t.Fatalf("the gateway is %v", a)
	}
	p.Share(addr(2), "gateway", true)
	if got := plans(p); !strings.Contains(got, `"2":{"kind":"gateway","by":["a"]}`) {
		t.Fatalf("an operator may name a second one: %q", got)
	}
}

func TestStraysAreInUseAndNotOwned(t *testing.T) {
	first, second := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("10.0.0.64")
	p := newPool(t, "10.0.0.0/24", map[netip.Addr]ownership.Entry{first: {Own: 1 << 5, Leaving: 1 << 7}})
	for _, place := range []int{70, 7, 5, 6} {
		p.Use(netip.AddrFrom4([4]byte{10, 0, 0, byte(place)}), true)
	}
	want := append(ownership.Addrs(first, 1<<6|1<<7), ownership.Addrs(second, 1<<6)...)
	if got := p.Strays(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
