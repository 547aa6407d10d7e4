package cluster_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

var subnet = netip.MustParsePrefix("10.1.0.0/24")

// pools is a store with pools.
type pools struct {
	*testing.T
	memory *store.Memory
}

func newPools(t *testing.T) pools { return pools{t, store.NewMemory()} }

// see reads all pools.
func (p pools) see() cluster.Pools {
	return cluster.Pools{KVs: p.memory.List("pools/").KVs, Index: p.memory.Get("index")}
}

// record reads one pool.
func (p pools) record(domain string, subnet netip.Prefix) store.KV {
	return p.memory.Get(cluster.PoolKey(domain, subnet))
}

// want checks the members of a pool; none means that there is no pool.
func (p pools) want(domain string, subnet netip.Prefix, uuid string, members ...ownership.Host) {
	p.Helper()
	kv := p.record(domain, subnet)
	var got cluster.Pool
	if kv.Rev != 0 {
		if err := json.Unmarshal(kv.Value, &got); err != nil {
			p.Fatal(err)
		}
	}
	if got.UUID != uuid || !slices.Equal(got.Members, members) {
		p.Fatalf("%+v; want %s with %v", got, uuid, members)
	}
}

// join does what Join says.
func (p pools) join(me ownership.Host, domain string, subnet netip.Prefix, uuid string) cluster.Pool {
	p.Helper()
	txn, pool, err := cluster.Join(me, domain, subnet, uuid, p.see())
	if err != nil {
		p.Fatal(err)
	}
	p.apply(txn)
	return pool
}

// leave does what Leave says.
func (p pools) leave(me ownership.Host) {
	p.Helper()
	txn, err := cluster.Leave(me, p.record("cluster", subnet), p.memory.Get("index"))
	if err != nil {
		p.Fatal(err)
	}
	p.apply(txn)
}

// apply commits a transaction, if there is anything to do.
func (p pools) apply(txn store.Txn) {
	p.Helper()
	if len(txn.Then) > 0 && !p.memory.Apply(txn).OK {
		p.Fatalf("the conditions of %+v do not hold", txn)
	}
}

// TestJoinMakesAPoolOnce: the first host names the pool, the others keep that name.
func TestJoinMakesAPoolOnce(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	for _, h := range []ownership.Host{"b", "a", "c"} {
		if pool := p.join(h, "cluster", subnet, "by-"+string(h)); pool.UUID != "by-b" || !slices.Contains(pool.Members, h) {
			t.Fatal(pool)
		}
	}
	p.want("cluster", subnet, "by-b", "a", "b", "c")
	txn, _, err := cluster.Join("a", "cluster", subnet, "again", p.see())
	if err != nil || len(txn.Then) > 0 {
		t.Fatal("a member joins again", txn, err)
	}
}

// TestJoinOverlap: subnets of one domain are the same or apart.
func TestJoinOverlap(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	p.join("a", "cluster", subnet, "u")
	for _, c := range []struct {
		domain, subnet string
		overlaps       bool
	}{
		{"cluster", "10.1.0.0/16", true},
		{"cluster", "10.1.0.128/25", true},
		{"cluster", "0.0.0.0/1", true},
		{"cluster", "10.1.1.0/24", false},
		{"cluster", "fd00::/64", false},
		{"other", "10.1.0.0/16", false},
		{"other", "10.1.0.0/24", false},
	} {
		_, _, err := cluster.Join("b", c.domain, netip.MustParsePrefix(c.subnet), "v", p.see())
		if errors.Is(err, cluster.ErrOverlap) != c.overlaps || !c.overlaps && err != nil {
			t.Errorf("%s of %s: %v", c.subnet, c.domain, err)
		}
	}
}

// TestJoinsAtOnce: of two hosts that saw the same, one does nothing.
func TestJoinsAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, second string }{
		{"one subnet", "10.1.0.0/24"}, {"subnets that overlap", "10.1.0.0/16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPools(t)
			seen := p.see()
			first, _, err := cluster.Join("a", "cluster", subnet, "u", seen)
			if err != nil {
				t.Fatal(err)
			}
			second, _, err := cluster.Join("b", "cluster", netip.MustParsePrefix(c.second), "v", seen)
			if err != nil {
				t.Fatal(err)
			}
			p.apply(first)
			if p.memory.Apply(second).OK {
				t.Fatal("both happened")
			}
			p.want("cluster", subnet, "u", "a")
		})
	}
}

// TestLeave: the last member takes the pool and its owners along.
func TestLeave(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	p.join("a", "cluster", subnet, "u")
	p.join("b", "cluster", subnet, "v")
	for _, key := range []string{cluster.OwnersPrefix("u") + "10.1.0.0", cluster.OwnersPrefix("w") + "10.2.0.0"} {
		p.memory.Apply(store.Txn{Then: []store.Op{store.Put(key, []byte("{}"))}})
	}
	p.leave("a")
	p.want("cluster", subnet, "u", "b")
	p.leave("a") // it is no member
	p.want("cluster", subnet, "u", "b")
	if n := len(p.memory.List("own/").KVs); n != 2 {
		t.Fatalf("%d records of owners", n)
	}
	p.leave("b")
	p.want("cluster", subnet, "")
	if left := p.memory.List("own/").KVs; len(left) != 1 || left[0].Key != cluster.OwnersPrefix("w")+"10.2.0.0" {
		t.Fatal(left)
	}
	p.leave("b") // there is no pool
	if pool := p.join("a", "cluster", subnet, "another life"); pool.UUID != "another life" {
		t.Fatal(pool)
	}
}

// TestLeaveThatComesLate does nothing once anybody joined.
func TestLeaveThatComesLate(t *testing.T) {
	t.Parallel()
	p := newPools(t)
	p.join("a", "cluster", subnet, "u")
	late, err := cluster.Leave("a", p.record("cluster", subnet), p.memory.Get("index"))
	if err != nil {
		t.Fatal(err)
	}
	p.join("b", "cluster", subnet, "v")
	if p.memory.Apply(late).OK {
		t.Fatal("it happened")
	}
	p.want("cluster", subnet, "u", "a", "b")
}

// TestRejoin: a recovering store learns of the pools that the hosts' journals have.
func TestRejoin(t *testing.T) {
	t.Parallel()
	mine := cluster.Pool{Version: 1, UUID: "u", Domain: "cluster", Subnet: subnet}
	for _, c := range []struct {
		name    string
		uuid    string // of the pool in the store
		members []ownership.Host
		want    []ownership.Host
		nothing bool
	}{
		{"the store does not know the pool", "", nil, []ownership.Host{"me"}, false},
		{"it does not know this host", "u", []ownership.Host{"a", "z"}, []ownership.Host{"a", "me", "z"}, false},
		{"it knows this host", "u", []ownership.Host{"a", "me"}, []ownership.Host{"a", "me"}, true},
		{"it has another life of the pool", "v", []ownership.Host{"a"}, []ownership.Host{"me"}, false},
		{"it has another life of the pool with this host", "v", []ownership.Host{"a", "me"}, []ownership.Host{"me"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPools(t)
			for _, h := range c.members {
				p.join(h, "cluster", subnet, c.uuid)
			}
			txn, err := cluster.Rejoin("me", mine, p.record("cluster", subnet), p.memory.Get("index"))
			if err != nil || (len(txn.Then) == 0) != c.nothing {
				t.Fatal(txn, err)
			}
			p.apply(txn)
			p.want("cluster", subnet, "u", c.want...)
		})
	}
}

// TestPoolsThatCannotBeRead are not changed.
func TestPoolsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]error{`{"v":2}`: ownership.ErrNewer, `{`: ownership.ErrDamaged} {
		p := newPools(t)
		p.memory.Apply(store.Txn{Then: []store.Op{store.Put(cluster.PoolKey("cluster", subnet), []byte(value))}})
		record, index := p.record("cluster", subnet), p.memory.Get("index")
		txn, _, err := cluster.Join("a", "cluster", netip.MustParsePrefix("10.9.0.0/24"), "u", p.see())
		if !errors.Is(err, want) || len(txn.Then) > 0 {
			t.Error("join", txn, err)
		}
		if txn, err = cluster.Leave("a", record, index); !errors.Is(err, want) || len(txn.Then) > 0 {
			t.Error("leave", txn, err)
		}
		txn, err = cluster.Rejoin("a", cluster.Pool{UUID: "u", Domain: "cluster", Subnet: subnet}, record, index)
		if !errors.Is(err, want) || len(txn.Then) > 0 {
			t.Error("rejoin", txn, err)
		}
	}
}
