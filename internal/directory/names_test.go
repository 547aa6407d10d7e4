package directory_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/store"
)

// lateNames is a store of which the news of names begin when the channel is closed, or end with
// the first.
type lateNames struct {
	cluster.Store
	begin <-chan struct{}
	once  bool
}

func (s lateNames) Watch(ctx context.Context, prefix string, fn func(store.Update)) error {
	if prefix != "name/" {
		return s.Store.Watch(ctx, prefix, fn)
	}
	select {
	case <-s.begin:
	case <-ctx.Done():
		return nil
	}
	told := false
	return s.Store.Watch(ctx, prefix, func(u store.Update) {
		if !told || !s.once {
			fn(u)
		}
		told = true
	})
}

// TestLateNames: the last host that leaves a network frees its name, though the news of names
// come after those of networks.
func TestLateNames(t *testing.T) {
	fake := store.NewFake()
	peer, dir := fake.Peer(), t.TempDir()
	a := newHost(t, "h1", peer, dir)
	n := a.found(network("demo"))
	a.Until("in", func() bool { got, _ := a.Network(n.UUID); return len(got.Hosts) == 1 })
	a.Stop() // it is removed from the host while weft is down
	begin := make(chan struct{})
	a = newHost(t, "h1", lateNames{Store: peer, begin: begin}, dir)
	time.Sleep(20 * time.Millisecond) // it would leave now
	close(begin)
	a.Until("nothing is left", func() bool { return keys(t, fake) == "" })
}

// TestNameUnknown: nor does a name stay that another host gave the network a moment ago.
func TestNameUnknown(t *testing.T) {
	fake := store.NewFake()
	begin := make(chan struct{})
	close(begin)
	a := newHost(t, "h1", lateNames{Store: fake.Peer(), begin: begin, once: true}, t.TempDir())
	b := newHost(t, "h2", fake.Peer(), t.TempDir())
	n := a.found(network(""))
	if _, err := b.Claim(t.Context(), n.UUID, "demo", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	a.Until("a knows of it", func() bool { got, _ := a.Network(n.UUID); return got.Name == "demo" })
	a.Forsake(n.UUID)
	b.Until("nothing is left", func() bool { return keys(t, fake) == "" })
}

// TestNameLeft: a name of which the network is gone can be given again, unless this host is
// about to tell the store of that network.
func TestNameLeft(t *testing.T) {
	fake := store.NewFake()
	a := newHost(t, "h1", fake.Peer(), t.TempDir())
	gone, n := network("demo"), a.found(network(""))
	put := store.Put("name/demo", []byte(`{"v":1,"uuid":"`+gone.UUID+`"}`))
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{put}}); err != nil {
		t.Fatal(err)
	}
	claim := func(wait time.Duration) (directory.Network, error) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		return a.Claim(ctx, n.UUID, "demo", []byte(`{}`))
	}
	a.Attend(gone)
	if got, err := claim(50 * time.Millisecond); !errors.Is(err, directory.ErrNoStore) {
		t.Fatalf("%q: %v", got.Name, err)
	}
	a.Forsake(gone.UUID)
	if got, err := claim(10 * time.Second); err != nil || got.Name != "demo" {
		t.Fatalf("%q: %v", got.Name, err)
	}
	a.Until("it is known by it", func() bool { got, ok := a.Named("demo"); return ok && got.UUID == n.UUID })
}
