package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/journal"
)

// Buckets of the journal.
const (
	bucketPools     = "ipam-pools"     // by PoolID
	bucketAddresses = "ipam-addresses" // by book and address
	bucketOwned     = "ipam-owned"     // by pool of the cluster and chunk
	bucketMeta      = "ipam-meta"
	keyNextToken    = "next-token"
)

// poolRecord is a pool in the journal; the rest of it is its key.
type poolRecord struct {
	Since time.Time
	// Network is the network that was created on the pool, as far as known.
	Network string `json:",omitempty"`
	// Started says that an endpoint asked for an address.
	Started bool `json:",omitempty"`
	// Superseded says that the engine came back with a newer pool for the same
	// network and has forgotten this one.
	Superseded bool `json:",omitempty"`
	// Share is the cluster's pool that this one is of; nil for a pool of this host
	// alone.
	Share *shareRecord `json:",omitempty"`
}

// addressRecord is an address in the journal: in use, or freed if Freed is set.
type addressRecord struct {
	Kind   Kind      `json:",omitempty"`
	Name   string    `json:",omitempty"`
	Tokens []token   `json:",omitempty"`
	Since  time.Time `json:",omitzero"`
	// Freed counts the releases in the book.
	Freed uint64 `json:",omitempty"`
}

func addressKey(key bookKey, a netip.Addr) string { return key.String() + "/" + a.String() }

func putPool(p *pool, rec poolRecord) journal.Op {
	return journal.Put(bucketPools, p.id.String(), rec)
}

func deletePool(p *pool) journal.Op { return journal.Delete(bucketPools, p.id.String()) }

func putHeld(key bookKey, a netip.Addr, h *holding) journal.Op {
	return journal.Put(bucketAddresses, addressKey(key, a),
		addressRecord{Kind: h.kind, Name: h.name, Tokens: h.tokens, Since: h.since})
}

func putFreed(key bookKey, f freed) journal.Op {
	return journal.Put(bucketAddresses, addressKey(key, f.addr), addressRecord{Name: f.name, Freed: f.seq})
}

func deleteAddress(key bookKey, a netip.Addr) journal.Op {
	return journal.Delete(bucketAddresses, addressKey(key, a))
}

func damaged(bucket, key string, err error) error {
	return fmt.Errorf("journal record %s/%s is damaged: %w", bucket, key, err)
}

// load reads the journal into memory.
func (m *IPAM) load() error {
	next, err := journal.Load[token](m.cfg.Journal, bucketMeta)
	if err != nil {
		return err
	}
	// The clock keeps tokens unique when the journal was lost or rolled back.
	m.next = max(next[keyNextToken], token(max(m.now().Unix(), 1)))
	pools, err := journal.Load[poolRecord](m.cfg.Journal, bucketPools)
	if err != nil {
		return err
	}
	if err := m.loadShares(pools); err != nil {
		return err
	}
	for key, rec := range pools {
		id, err := parsePoolID(key)
		if err != nil {
			return damaged(bucketPools, key, err)
		}
		m.addPool(&pool{id: id, rec: rec})
	}
	addresses, err := journal.Load[addressRecord](m.cfg.Journal, bucketAddresses)
	if err != nil {
		return err
	}
	for key, rec := range addresses {
		if err := m.loadAddress(key, rec); err != nil {
			return damaged(bucketAddresses, key, err)
		}
	}
	if m.cfg.Cluster != nil {
		for _, sh := range m.shares() {
			sh.conflicts.resume(sh.book, m.leaders)
		}
	}
	return nil
}

func (m *IPAM) loadAddress(key string, rec addressRecord) error {
	cut := strings.LastIndexByte(key, '/')
	addr, err := netip.ParseAddr(key[cut+1:])
	if err != nil {
		return err
	}
	id, err := parsePoolID(key[:max(cut, 0)] + "/-/t0")
	if err != nil {
		return err
	}
	b := m.books[id.bookKey]
	if b == nil {
		m.cfg.Logger.Warn("ignored an address of no pool", "record", key)
		return nil
	}
	if err := b.check(addr); err != nil {
		return err
	}
	if rec.Freed > 0 {
		b.remember(freed{addr: addr, name: rec.Name, seq: rec.Freed})
		return nil
	}
	tokens := slices.DeleteFunc(rec.Tokens, func(t token) bool { return m.pools[t] == nil || m.pools[t].book != b })
	if len(tokens) == 0 {
		m.cfg.Logger.Warn("ignored an address that no pool holds", "record", key)
		return nil
	}
	b.hold(addr, &holding{kind: rec.Kind, name: rec.Name, tokens: tokens, since: rec.Since})
	return nil
}

// addPool puts p on its book, which is made if it is the first.
func (m *IPAM) addPool(p *pool) {
	b := m.books[p.id.bookKey]
	if b == nil {
		b = newBook(p.id.subnet)
		m.books[p.id.bookKey] = b
	}
	p.book = b
	m.pools[p.id.token] = p
}
