package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/weft-net/weft/internal/store"
)

// TestMemory: the model keeps its own promises; that they are etcd's is TestModel.
func TestMemory(t *testing.T) {
	m := store.NewMemory()
	if m.Rev() != 1 || m.Get("a").Rev != 0 {
		t.Errorf("an empty store has revision %d", m.Rev())
	}
	res := m.Apply(store.Txn{Then: []store.Op{store.Put("a", []byte("1")), store.Put("b", nil)}})
	if !res.OK || res.Rev != 2 || m.Get("a").Rev != 2 || m.Get("b").Created != 2 {
		t.Errorf("two puts: %+v", res)
	}
	if res = m.Apply(store.Txn{Then: []store.Op{store.Delete("none")}}); !res.OK || res.Rev != 2 {
		t.Errorf("deleting nothing: %+v", res)
	}
	backup := m.Clone()
	m.Apply(store.Txn{Then: []store.Op{store.Put("a", []byte("2"))}})
	lives := store.Txn{If: []store.Cond{store.Lives("a", 2)}, Then: []store.Op{store.Delete("a")}}
	if res = m.Apply(lives); !res.OK || res.Rev != 4 {
		t.Errorf("a changed record lives: %+v", res)
	}
	m.Apply(store.Txn{Then: []store.Op{store.Put("a", nil)}})
	res = m.Apply(store.Txn{If: []store.Cond{store.Lives("a", 2), store.Unchanged("a", 0), store.Unchanged("x", 0)}})
	if res.OK || res.Rev != 5 || len(res.Now) != 1 || res.Now[0].Created != 5 {
		t.Errorf("a record made again: %+v", res)
	}
	if backup.Rev() != 2 || string(backup.Get("a").Value) != "1" {
		t.Errorf("the clone changed: %+v", backup.Get("a"))
	}
}

// TestSince: what Since tells leads from any earlier state to the present one.
func TestSince(t *testing.T) {
	r, m := rand.New(rand.NewPCG(3, 4)), store.NewMemory()
	var past []*store.Memory
	for n := range 500 {
		txn := randomTxn(r, m, n)
		if txn.Check() == nil {
			m.Apply(txn)
		}
		if n == 100 {
			m.Compact(m.Rev() - 3)
		}
		past = append(past, m.Clone())
	}
	resets := 0
	for _, old := range past {
		state := make(map[string]store.KV)
		for kv := range old.All("k/") {
			state[kv.Key] = kv
		}
		u := m.Since(old.Rev(), "k/")
		if u.Reset {
			resets++
			clear(state)
		}
		for _, kv := range u.Deletes {
			delete(state, kv.Key)
		}
		for _, kv := range u.Puts {
			state[kv.Key] = kv
		}
		want := make(map[string]store.KV)
		for _, kv := range m.List("k/").KVs {
			want[kv.Key] = kv
		}
		if diff := different(want, state); diff != "" {
			t.Fatalf("from revision %d: %s", old.Rev(), diff)
		}
	}
	if resets == 0 || resets > 105 {
		t.Errorf("%d resets", resets)
	}
	if u := store.NewMemory().Since(7, ""); !u.Reset {
		t.Errorf("a revision that is yet to come: %+v", u)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		txn  store.Txn
		want error
	}{
		{"nothing", store.Txn{}, nil},
		{"two keys", store.Txn{Then: []store.Op{store.Put("a", nil), store.Delete("b")}}, nil},
		{"two deletes", store.Txn{Then: []store.Op{store.Delete("a"), store.Delete("a"), store.DeletePrefix("")}}, nil},
		{"two puts", store.Txn{Then: []store.Op{store.Put("a", nil), store.Put("a", nil)}}, store.ErrInvalid},
		{"put and delete", store.Txn{Then: []store.Op{store.Put("a", nil), store.Delete("a")}}, store.ErrInvalid},
		{"prefix and put", store.Txn{Then: []store.Op{store.DeletePrefix("a"), store.Put("ab", nil)}}, store.ErrInvalid},
		{"put and prefix", store.Txn{Then: []store.Op{store.Put("ab", nil), store.DeletePrefix("a")}}, store.ErrInvalid},
		{"no key", store.Txn{Then: []store.Op{store.Put("", nil)}}, store.ErrInvalid},
		{"slash", store.Txn{Then: []store.Op{store.DeletePrefix("/")}}, store.ErrInvalid},
		{"no key in a condition", store.Txn{If: []store.Cond{store.Unchanged("", 0)}}, store.ErrInvalid},
		{"put of a prefix", store.Txn{Then: []store.Op{{Key: "a", Prefix: true}}}, store.ErrInvalid},
		{"too large", store.Txn{Then: []store.Op{store.Put("a", make([]byte, 1<<20)), store.Put("b", make([]byte, 1<<20))}}, store.ErrTooLarge},
		{"too many conditions", store.Txn{If: make([]store.Cond, 129)}, store.ErrTooLarge},
	} {
		if err := c.txn.Check(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// BenchmarkApply is a step of a model checker: a clone, a Txn that holds and one
// that does not.
func BenchmarkApply(b *testing.B) {
	m := store.NewMemory()
	for n := range 40 {
		m.Apply(store.Txn{Then: []store.Op{store.Put(fmt.Sprintf("pool/chunk/%02d", n), nil)}})
	}
	m.Compact(m.Rev())
	key := "pool/chunk/17"
	rev := m.Get(key).Rev
	b.Run("clone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Clone()
		}
	})
	b.Run("holds", func(b *testing.B) {
		b.ReportAllocs()
		txn := store.Txn{If: []store.Cond{store.Unchanged(key, rev)}, Then: []store.Op{store.Put(key, nil)}}
		for b.Loop() {
			txn.If[0].Rev = m.Apply(txn).Rev
		}
	})
	b.Run("fails", func(b *testing.B) {
		b.ReportAllocs()
		txn := store.Txn{If: []store.Cond{store.Unchanged(key, -1)}, Then: []store.Op{store.Put(key, nil)}}
		for b.Loop() {
			m.Apply(txn)
		}
	})
}
