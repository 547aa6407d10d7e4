package directory

import (
	"testing"

	"github.com/weft-net/weft/internal/store"
)

// TestLateLearning: what a host learns of its own change may come after the watch told of the
// network's end, and must not bring it back.
func TestLateLearning(t *testing.T) {
	d := New(Config{})
	n := Network{UUID: "u1", Name: "demo"}
	put := func(rev int64) store.KV { return store.KV{Key: netKey(n.UUID), Value: versioned(n), Rev: rev} }
	d.seeNetworks(store.Update{Puts: []store.KV{put(5)}})
	d.seeNetworks(store.Update{Deletes: []store.KV{{Key: netKey(n.UUID), Rev: 8}}})
	d.learn(n.UUID, store.Txn{Then: []store.Op{store.Put(netKey(n.UUID), versioned(n))}}, store.Result{OK: true, Rev: 7})
	if _, known := d.Network(n.UUID); known {
		t.Error("an older change brought the network back")
	}
	d.learn(n.UUID, store.Txn{Then: []store.Op{store.Put(netKey(n.UUID), versioned(n))}}, store.Result{OK: true, Rev: 9})
	d.seeNetworks(store.Update{Deletes: []store.KV{{Key: netKey(n.UUID), Rev: 8}}})
	if _, known := d.Network(n.UUID); !known {
		t.Error("older news took the network away")
	}
}
