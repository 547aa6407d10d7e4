package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/store/storetest"
)

// different compares records; an empty value is no value.
func different(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

// randomTxn makes a Txn over a few keys with conditions that often hold.
func randomTxn(r *rand.Rand, m *store.Memory, n int) store.Txn {
	key := func() string { return fmt.Sprintf("k/%d", r.IntN(6)) }
	var txn store.Txn
	for range r.IntN(3) {
		kv := m.Get(key())
		rev := kv.Rev
		if r.IntN(4) == 0 {
			rev = int64(r.IntN(int(m.Rev()) + 1))
		}
		c := store.Unchanged(kv.Key, rev)
		if r.IntN(3) == 0 {
			c = store.Lives(kv.Key, kv.Created)
		}
		txn.If = append(txn.If, c)
	}
	for range r.IntN(4) {
		op := store.Put(key(), []byte(fmt.Sprint(n)))
		switch r.IntN(5) {
		case 0:
			op = store.Delete(key())
		case 1:
			op = store.DeletePrefix([]string{"k/1", "k/", "none"}[r.IntN(3)])
		}
		txn.Then = append(txn.Then, op)
	}
	return txn
}

// TestModel: the store does what Memory says, revision by revision.
func TestModel(t *testing.T) {
	forEach(t, storetest.Config{}, func(t *testing.T, s rig) {
		r, m := rand.New(rand.NewPCG(1, 2)), store.NewMemory()
		oks, fails, refused := 0, 0, 0
		for n := range 600 {
			txn := randomTxn(r, m, n)
			got, err := s.Commit(t.Context(), txn)
			if check := txn.Check(); check != nil {
				if refused++; !errors.Is(err, store.ErrInvalid) {
					t.Fatalf("%+v: %v, want %v", txn, err, check)
				}
				continue
			}
			want := m.Apply(txn)
			if diff := different(want, got); err != nil || diff != "" {
				t.Fatalf("step %d, %+v: %v\n%s", n, txn, err, diff)
			}
			if want.OK {
				oks++
			} else {
				fails++
			}
			if n%20 != 0 {
				continue
			}
			for _, prefix := range []string{"", "k", "k/", "k/1", "x"} {
				snap, err := s.Read(t.Context(), prefix)
				if diff := different(m.List(prefix), snap); err != nil || diff != "" {
					t.Fatalf("step %d, Read(%q): %v\n%s", n, prefix, err, diff)
				}
			}
			kv, rev, err := s.Get(t.Context(), "k/1")
			if diff := different(m.Get("k/1"), kv); err != nil || diff != "" || rev != m.Rev() {
				t.Fatalf("step %d, Get: %v, revision %d of %d\n%s", n, err, rev, m.Rev(), diff)
			}
		}
		if oks < 100 || fails < 50 || refused < 10 {
			t.Errorf("%d happened, %d did not, %d were refused: the test is weak", oks, fails, refused)
		}
		if s.Status().Rev != m.Rev() {
			t.Errorf("Status has revision %d, want %d", s.Status().Rev, m.Rev())
		}
	})
}

// TestPages: a prefix of many records is read at one revision, while others write.
func TestPages(t *testing.T) {
	forEach(t, storetest.Config{}, func(t *testing.T, s rig) {
		const records = 2300
		for n := 0; n < records; n += 100 {
			var txn store.Txn
			for i := range 100 {
				txn.Then = append(txn.Then, store.Put(fmt.Sprintf("p/%05d", n+i), []byte("0")))
			}
			commit(t, s, txn)
		}
		put(t, s, "p0", "not of the prefix")
		stop, done := make(chan struct{}), make(chan struct{})
		go func() { // every change is of two records far from each other
			defer close(done)
			other := s.peer(t)
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				v := []byte(fmt.Sprint(n))
				if _, err := other.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("p/00000", v), store.Put("p/02299", v)}}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for n := range 20 {
			snap, err := s.Read(t.Context(), "p/")
			if err != nil {
				t.Fatal(err)
			}
			if len(snap.KVs) != records || !slices.IsSortedFunc(snap.KVs, func(a, b store.KV) int { return cmpKeys(a.Key, b.Key) }) {
				t.Fatalf("%d records, want %d sorted ones", len(snap.KVs), records)
			}
			if a, b := snap.KVs[0], snap.KVs[records-1]; a.Rev > 30 && string(a.Value) != string(b.Value) || a.Rev > snap.Rev {
				t.Fatalf("torn read at %d: %+v and %+v", snap.Rev, a, b)
			}
			if n%5 == 4 {
				s.compact()
			}
		}
		close(stop)
		<-done
	})
}

func cmpKeys(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// TestWatch: a watch follows, over compactions, restarts of the whole store, a
// restored backup and a wiped store.
func TestWatch(t *testing.T) {
	forEach(t, storetest.Config{}, func(t *testing.T, s rig) {
		put(t, s, "w/old", "1")
		m := watch(t, s, "w/")
		m.catchUp(t, s, "w/")
		for n := range 50 {
			put(t, s, fmt.Sprintf("w/%d", n%7), fmt.Sprint(n))
			put(t, s, "elsewhere", "x")
			if n%10 == 3 {
				commit(t, s, store.Txn{Then: []store.Op{store.DeletePrefix("w/1"), store.Delete("w/2"), store.Put("w/new", nil)}})
				m.catchUp(t, s, "w/") // a watch that is behind would begin again
				s.compact()
			}
		}
		m.catchUp(t, s, "w/")
		if m.resetCount() != 1 {
			t.Errorf("%d resets on an undisturbed watch", m.resetCount())
		}
		restore := s.backup()
		kept := put(t, s, "w/4", "after the backup")
		commit(t, s, store.Txn{Then: []store.Op{store.Delete("w/3")}})

		s.down()
		eventually(t, 5*time.Second, "it is down", func() bool { return !s.Up() })
		s.up()
		eventually(t, 5*time.Second, "it is up", s.Up)
		put(t, s, "w/back", "1")
		m.catchUp(t, s, "w/")

		restore()
		eventually(t, 5*time.Second, "it is up", s.Up)
		m.catchUp(t, s, "w/")
		if kv := get(t, s, "w/4"); kv.Rev == kept || get(t, s, "w/3").Rev == 0 {
			t.Errorf("after the restore: %+v", kv)
		}
		s.wipe()
		eventually(t, 5*time.Second, "it is up", s.Up)
		put(t, s, "w/fresh", "1")
		m.catchUp(t, s, "w/")
	})
}
