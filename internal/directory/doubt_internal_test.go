package directory

import (
	"context"
	"testing"

	"github.com/weft-net/weft/internal/store"
)

// TestLateLearning: what a host learns of its own change may come after the watch told of the
// end of what it made, and must not bring it back.
func TestLateLearning(t *testing.T) {
	d := New(Config{})
	n := Network{UUID: "u1", Name: "demo"}
	network := func(rev int64) store.KV { return store.KV{Key: netKey(n.UUID), Value: versioned(n), Rev: rev} }
	name := func(rev int64) store.KV {
		return store.KV{Key: nameKey(n.Name), Value: versioned(pointer{n.UUID}), Rev: rev}
	}
	learn := func(rev int64) { d.learn(n.UUID, found(n), store.Result{OK: true, Rev: rev}) }
	known := func(when string, want bool) {
		t.Helper()
		if _, ok := d.Network(n.UUID); ok != want {
			t.Errorf("%s the network is known: %t", when, ok)
		}
		if _, ok := d.names[nameKey(n.Name)]; ok != want {
			t.Errorf("%s the name is known: %t", when, ok)
		}
	}
	d.seeNetworks(store.Update{Reset: true, Rev: 5, Puts: []store.KV{network(5)}})
	d.seeNames(store.Update{Reset: true, Rev: 5, Puts: []store.KV{name(5)}})
	known("at first", true)
	d.seeNetworks(store.Update{Rev: 8, Deletes: []store.KV{{Key: netKey(n.UUID), Rev: 8}}})
	d.seeNames(store.Update{Rev: 8, Deletes: []store.KV{{Key: nameKey(n.Name), Rev: 8}}})
	learn(7)
	known("after an older change", false)
	learn(10)
	d.seeNetworks(store.Update{Rev: 9, Deletes: []store.KV{{Key: netKey(n.UUID), Rev: 9}}})
	d.seeNames(store.Update{Rev: 9, Deletes: []store.KV{{Key: nameKey(n.Name), Rev: 9}}})
	known("after older news", true)
	d.seeNetworks(store.Update{Reset: true, Rev: 20})
	d.seeNames(store.Update{Reset: true, Rev: 20})
	learn(15)
	known("after a change that was gone when the store was listed", false)
	d.seeNetworks(store.Update{Reset: true, Rev: 3})
	d.seeNames(store.Update{Reset: true, Rev: 3})
	learn(4)
	known("after a change of a store that was restored", true)
}

// asked is a membership that is doing something else while it asks the store.
type asked struct {
	alone
	during func()
}

func (c *asked) Change(ctx context.Context, txn store.Txn) (store.Result, error) {
	c.during()
	return c.alone.Change(ctx, txn)
}

// TestAttendedAgain: an answer of the store is about what was listed before the question, and not
// about a network that was attended anew meanwhile.
func TestAttendedAgain(t *testing.T) {
	n := Network{UUID: "u1", Name: "demo"}
	c := &asked{alone: alone{Fake: store.NewFake()}}
	d := New(Config{Cluster: c})
	d.Attend(n)
	d.attended[n.UUID].take(store.Update{Reset: true, Rev: 1}, "")
	c.during = func() {
		d.Forsake(n.UUID)
		d.Attend(n)
	}
	d.resolve(t.Context())
	if d.Follows(n.UUID) {
		t.Error("it follows what it has not seen")
	}
	c.during = func() {}
	d.attended[n.UUID].take(store.Update{Reset: true, Rev: 1}, "")
	d.resolve(t.Context())
	if !d.Follows(n.UUID) {
		t.Error("it does not follow what it has seen")
	}
}
