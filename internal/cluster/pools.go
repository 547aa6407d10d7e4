package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// ErrOverlap says that a subnet collides with a pool of the cluster.
var ErrOverlap = errors.New("the subnet overlaps a pool of the cluster")

// A Pool is the record of one subnet of one domain. It lives while hosts have
// networks on it.
type Pool struct {
	Version int `json:"v"`
	// UUID names this life of the pool; the keys of its owners' records contain it.
	UUID   string       `json:"uuid"`
	Domain string       `json:"domain"`
	Subnet netip.Prefix `json:"subnet"`
	// Members are the hosts with a network on the pool, sorted.
	Members []ownership.Host `json:"members"`
}

// Pools is one look at all pools.
type Pools struct {
	KVs   []store.KV
	Index store.KV
}

// PoolKey is the key of a pool's record.
func PoolKey(domain string, subnet netip.Prefix) string {
	return prefixPools + domain + "/" + subnet.String()
}

// OwnersPrefix is where the owners of a pool's addresses are.
func OwnersPrefix(uuid string) string { return prefixOwners + uuid + "/" }

// List decodes all pools, by key.
func (s Pools) List() (map[string]Pool, error) {
	out := make(map[string]Pool, len(s.KVs))
	for _, kv := range s.KVs {
		p, err := decode[Pool](kv)
		if err != nil {
			return nil, err
		}
		out[kv.Key] = p
	}
	return out, nil
}

// readable decodes the pools that can be; the error is of the other ones.
func (s Pools) readable() (map[string]Pool, error) {
	out := make(map[string]Pool, len(s.KVs))
	var bad []error
	for _, kv := range s.KVs {
		p, err := decode[Pool](kv)
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", kv.Key, err))
			continue
		}
		out[kv.Key] = p
	}
	return out, errors.Join(bad...)
}

func (s Pools) get(key string) store.KV {
	for _, kv := range s.KVs {
		if kv.Key == key {
			return kv
		}
	}
	return store.KV{Key: key}
}

// Join is the transaction by which a host becomes a member of a pool, which is made
// with the given UUID if there is none; the Pool is what it will be. No transaction
// is needed if the host is one already. A subnet that overlaps another one of the
// domain is [ErrOverlap].
func Join(me ownership.Host, domain string, subnet netip.Prefix, uuid string, seen Pools) (store.Txn, Pool, error) {
	key := PoolKey(domain, subnet)
	if record := seen.get(key); record.Rev != 0 {
		p, err := decode[Pool](record) // the other ones do not matter, and need not be readable
		if err != nil {
			return store.Txn{}, Pool{}, err
		}
		if slices.Contains(p.Members, me) {
			return store.Txn{}, p, nil
		}
		p.Members = append(slices.Clone(p.Members), me)
		slices.Sort(p.Members)
		return store.Txn{
			If:   []store.Cond{store.Unchanged(key, record.Rev)},
			Then: []store.Op{store.Put(key, encode(p))},
		}, p, nil
	}
	all, err := seen.List()
	if err != nil {
		return store.Txn{}, Pool{}, err
	}
	for _, p := range all {
		if p.Domain == domain && p.Subnet.Overlaps(subnet) {
			return store.Txn{}, Pool{}, fmt.Errorf("%w: %s overlaps %s (domain %s, hosts %v)", ErrOverlap, subnet, p.Subnet, p.Domain, p.Members)
		}
	}
	p := Pool{Version: recordVersion, UUID: uuid, Domain: domain, Subnet: subnet, Members: []ownership.Host{me}}
	return store.Txn{
		If:   []store.Cond{store.Unchanged(key, 0), store.Unchanged(keyIndex, seen.Index.Rev)},
		Then: []store.Op{store.Put(key, encode(p)), store.Put(keyIndex, []byte("{}"))},
	}, p, nil
}

// Leave is the transaction by which a host, or one that was removed, ends being a
// member; the last one takes the pool along. No transaction is needed if it is none.
func Leave(h ownership.Host, record, index store.KV) (store.Txn, error) {
	p, err := decode[Pool](record)
	if err != nil || !slices.Contains(p.Members, h) {
		return store.Txn{}, err
	}
	txn := store.Txn{If: []store.Cond{store.Unchanged(record.Key, record.Rev)}}
	p.Members = slices.DeleteFunc(slices.Clone(p.Members), func(m ownership.Host) bool { return m == h })
	if len(p.Members) > 0 {
		txn.Then = []store.Op{store.Put(record.Key, encode(p))}
		return txn, nil
	}
	txn.If = append(txn.If, store.Unchanged(keyIndex, index.Rev))
	txn.Then = []store.Op{store.Delete(record.Key), store.DeletePrefix(OwnersPrefix(p.UUID)), store.Put(keyIndex, []byte("{}"))}
	return txn, nil
}

// Rejoin is the transaction by which a host comes back to a pool that a restored
// store does not know, or not as its own. The UUID is the one that the host's
// journal has; a store that has another one lost the pool meanwhile.
func Rejoin(me ownership.Host, p Pool, record, index store.KV) (store.Txn, error) {
	now, err := decode[Pool](record)
	if err != nil {
		return store.Txn{}, err
	}
	if record.Rev == 0 || now.UUID != p.UUID {
		now = Pool{Version: recordVersion, UUID: p.UUID, Domain: p.Domain, Subnet: p.Subnet}
	}
	if slices.Contains(now.Members, me) {
		return store.Txn{}, nil
	}
	now.Members = append(slices.Clone(now.Members), me)
	slices.Sort(now.Members)
	return store.Txn{
		If:   []store.Cond{store.Unchanged(record.Key, record.Rev), store.Unchanged(keyIndex, index.Rev)},
		Then: []store.Op{store.Put(record.Key, encode(now)), store.Put(keyIndex, []byte("{}"))},
	}, nil
}
