// Package directorytest has small hosts for tests: a journal, the membership in a cluster
// and the directory, over any store.
//
//	h := directorytest.New(t, directorytest.Config{Name: "h1", Store: fake.Peer(), Dir: t.TempDir()})
//	h.Attend(n)               // what an earlier run had
//	h.Start(kind.Run)         // runs all of it until h.Stop or the end of the test
//	h.Until("ready", h.Ready)
package directorytest

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/journal"
)

// Config says what a [Host] is. Name, Store and Dir are required.
type Config struct {
	Name  string
	Store cluster.Store
	// Dir has the journal, which another run of the host can go on with.
	Dir string
	// Address is the one by which other hosts reach it; nil means that none is known.
	Address func() netip.Addr
	// OnMember is called after the membership changed, OnChange is the directory's; both
	// may be nil.
	OnMember func()
	OnChange func(uuid string)
	// Memory is what the directory remembers in; nil means the journal.
	Memory func(*journal.Journal) directory.Journal
	// Now is the directory's clock; nil means time.Now.
	Now func() time.Time
}

// A Host is one run of a host.
type Host struct {
	*directory.Directory
	Cluster *cluster.Cluster
	Journal *journal.Journal
	tb      testing.TB
	name    string
	end     context.CancelFunc
	work    sync.WaitGroup
	once    sync.Once
}

// New makes a host of what its journal has. Nothing of it runs before [Host.Start].
func New(tb testing.TB, cfg Config) *Host {
	tb.Helper()
	j, err := journal.Open(filepath.Join(cfg.Dir, "journal.db"))
	if err != nil {
		tb.Fatal(err)
	}
	h := &Host{Journal: j, tb: tb, name: cfg.Name, end: func() {}}
	tb.Cleanup(h.Stop)
	id, _, err := cluster.LoadIdentity(j, cluster.Fingerprint{})
	if err != nil {
		tb.Fatal(err)
	}
	h.Cluster = cluster.New(cluster.Config{
		Store: cfg.Store, Journal: j, Identity: id, Name: cfg.Name,
		Describe: func() cluster.Host {
			if cfg.Address == nil {
				return cluster.Host{}
			}
			return cluster.Host{Address: cfg.Address()}
		},
		OnChange: func() {
			h.Poke()
			if cfg.OnMember != nil {
				cfg.OnMember()
			}
		},
	})
	out := directory.Config{Cluster: h.Cluster, Journal: j, OnChange: cfg.OnChange, Now: cfg.Now}
	if cfg.Memory != nil {
		out.Journal = cfg.Memory(j)
	}
	h.Directory = directory.New(out)
	return h
}

// Start runs membership, directory and tasks until [Host.Stop]. It is called once.
func (h *Host) Start(tasks ...func(context.Context) error) {
	ctx, end := context.WithCancel(context.Background())
	h.end = end
	for _, run := range append(tasks, h.Cluster.Run, h.Run) {
		h.work.Go(func() { _ = run(ctx) }) // it ends with ctx
	}
}

// Stop ends the run and closes the journal; again it does nothing. The end of the test
// stops a host as well.
func (h *Host) Stop() {
	h.once.Do(func() {
		h.end()
		h.work.Wait()
		_ = h.Journal.Close()
	})
}

// Ready reports whether the host is a member and has seen the networks.
func (h *Host) Ready() bool { return h.Cluster.Ready() == nil && h.Synced() }

// Until waits for a condition. state, if given, says how things are when it does not
// come true.
func (h *Host) Until(what string, ok func() bool, state ...func() string) {
	h.tb.Helper()
	const most, pause = 10 * time.Second, time.Millisecond
	end := time.Now().Add(most)
	for !ok() {
		if time.Now().After(end) {
			lines := []string{h.name + ": not in time: " + what}
			for _, s := range state {
				lines = append(lines, s())
			}
			h.tb.Fatal(strings.Join(lines, "\n"))
		}
		<-time.After(pause)
	}
}
