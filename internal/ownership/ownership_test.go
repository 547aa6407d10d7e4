package ownership_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// record draws a record in which nobody has an address twice.
func record(t *rapid.T) ownership.Record {
	var r ownership.Record
	left := ^ownership.Mask(0)
	part := func(label string) ownership.Mask {
		m := ownership.Mask(rapid.Uint64().Draw(t, label)) & left
		left &^= m
		return m
	}
	hosts := []ownership.Host{"a", "b", "c"}
	for _, h := range hosts {
		if m := part("own"); m != 0 {
			if r.Owned == nil {
				r.Owned = map[ownership.Host]ownership.Mask{}
			}
			r.Owned[h] = m
		}
		if m := part("dead"); m != 0 {
			if r.Dead == nil {
				r.Dead = map[ownership.Host]ownership.Mask{}
			}
			r.Dead[h] = m
		}
	}
	for m := part("shared"); m != 0; m &= m - 1 {
		if r.Shared == nil {
			r.Shared = map[ownership.Mask]ownership.Shared{}
		}
		r.Shared[m&-m] = ownership.Shared{Kind: "gateway", By: hosts[:rapid.IntRange(1, 3).Draw(t, "by")]}
	}
	return r
}

func TestRecordsDecodeToWhatWasEncoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := record(t)
		back, err := ownership.Decode(r.Encode())
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%+v became %+v, %v", r, back, err)
		}
	})
}

func TestHostileRecords(t *testing.T) {
	for value, want := range map[string]error{
		``:                        ownership.ErrDamaged,
		`null extra`:              ownership.ErrDamaged,
		`[]`:                      ownership.ErrDamaged,
		`{"v":2}`:                 ownership.ErrNewer,
		`{"v":2,"new":true}`:      ownership.ErrNewer,
		`{"v":2,"own":[]}`:        ownership.ErrNewer,
		`{"v":1} extra`:           ownership.ErrDamaged,
		`{"v":1,"new":true}`:      ownership.ErrDamaged,
		`{"v":1,"own":{"a":"x"}}`: ownership.ErrDamaged,
		`{"v":1,"own":{"a":"1ffffffffffffffff"}}`:                          ownership.ErrDamaged,
		`{"v":1,"own":{"a":1}}`:                                            ownership.ErrDamaged,
		`{"v":1,"own":{"a":"1","b":"3"}}`:                                  ownership.ErrDamaged,
		`{"v":1,"own":{"a":"1"},"dead":{"a":"1"}}`:                         ownership.ErrDamaged,
		`{"v":1,"own":{"a":"1"},"shared":{"0":{"kind":"aux","by":["b"]}}}`: ownership.ErrDamaged,
		`{"v":1,"shared":{"64":{"kind":"aux","by":["b"]}}}`:                ownership.ErrDamaged,
		`{"v":1,"shared":{"-1":{"kind":"aux","by":["b"]}}}`:                ownership.ErrDamaged,
		`{"v":1,"shared":{"1":{"kind":"a","by":["b"]},"01":{"by":["c"]}}}`: ownership.ErrDamaged,
		`{"v":1}`: nil,
		`{"v":1,"own":{"a":"8000000000000001"},"dead":{"a":"2"},"shared":{"2":{"kind":"aux","by":["b"]}}}`: nil,
	} {
		if _, err := ownership.Decode([]byte(value)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", value, err, want)
		}
	}
}

func TestBury(t *testing.T) {
	r, err := ownership.Decode([]byte(`{"v":1,"own":{"a":"3","b":"4"},"dead":{"a":"8"},"shared":{"4":{"kind":"gateway","by":["a"]},"5":{"kind":"gateway","by":["a","b"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Bury("a") || r.Bury("a") || r.Bury("nobody") {
		t.Error("Bury does not say what it did")
	}
	const want = `{"v":1,"own":{"b":"0000000000000004"},"dead":{"a":"000000000000000b"},"shared":{"5":{"kind":"gateway","by":["b"]}}}`
	if got := string(r.Encode()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAsksDecodeToWhatWasEncoded(t *testing.T) {
	for _, a := range []ownership.Ask{
		{From: "a", Pool: "own/1/", Address: netip.MustParseAddr("10.0.0.1")},
		{From: "a", Pool: "own/1/", Range: netip.MustParsePrefix("fd00::/64"), Refused: "it is in use"},
	} {
		a.Key, a.Rev = "ask/b/1", 7
		back, err := ownership.DecodeAsk(store.KV{Key: a.Key, Rev: a.Rev, Value: a.Encode()})
		if err != nil || back != a {
			t.Errorf("%+v became %+v, %v", a, back, err)
		}
		txn := ownership.Refuse(a, "no")
		refused, err := ownership.DecodeAsk(store.KV{Value: txn.Then[0].Value})
		if err != nil || refused.Refused != "no" || txn.If[0] != store.Unchanged(a.Key, a.Rev) || txn.Check() != nil {
			t.Errorf("refusal %+v, %v", txn, err)
		}
	}
	for value, want := range map[string]error{`x`: ownership.ErrDamaged, `{"v":2}`: ownership.ErrNewer, `{"v":1,"address":"x"}`: ownership.ErrDamaged} {
		if _, err := ownership.DecodeAsk(store.KV{Value: []byte(value)}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", value, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"own":{"a":"8000000000000001"},"dead":{"a":"2"},"shared":{"2":{"kind":"aux","by":["b"]}}}`))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ownership.Decode(b)
		if err != nil {
			return
		}
		again, err := ownership.Decode(r.Encode())
		if err != nil || string(again.Encode()) != string(r.Encode()) {
			t.Errorf("%q: %s became %s, %v", b, r.Encode(), again.Encode(), err)
		}
		r.Bury("a")
		if _, err := ownership.Decode(r.Encode()); err != nil {
			t.Errorf("%q after Bury: %v", b, err)
		}
	})
}

func FuzzDecodeAsk(f *testing.F) {
	f.Add([]byte(`{"v":1,"from":"a","pool":"own/1/","address":"10.0.0.1"}`))
	f.Add([]byte(`{"v":1,"from":"a","pool":"own/1/","range":"fd00::/64","refused":"no"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ownership.DecodeAsk(store.KV{Key: "ask/b/1", Rev: 1, Value: b})
		if err != nil {
			return
		}
		p := newPool(t, "10.0.0.0/24", nil)
		p.Reset(nil, 1)
		if p.Answer(a) == "" {
			t.Errorf("%q: an address that nobody owns was granted", b)
		}
	})
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

func newPool(t tester, subnet string, entries map[netip.Addr]ownership.Entry) *ownership.Pool {
	t.Helper()
	p := netip.MustParsePrefix(subnet)
	return ownership.NewPool(ownership.Config{Me: "a", Prefix: "own/1/", Subnet: p, Reserved: []netip.Addr{p.Addr()}}, entries)
}
