package directory

import (
	"fmt"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// The changes of networks, each one transaction. They compare the network's record, so
// that of two hosts that change it at once one looks again.

// found makes a network, its number and, if it has one, its name.
func found(n Network) store.Txn {
	txn := store.Txn{
		If:   []store.Cond{store.Unchanged(netKey(n.UUID), 0)},
		Then: []store.Op{store.Put(netKey(n.UUID), versioned(n))},
	}
	take := func(key string) {
		txn.If = append(txn.If, store.Unchanged(key, 0))
		txn.Then = append(txn.Then, store.Put(key, versioned(pointer{n.UUID})))
	}
	if n.VNI != 0 {
		take(vniKey(n.VNI))
	}
	if n.Name != "" {
		take(nameKey(n.Name))
	}
	return txn
}

// replace writes a network's record.
func replace(kv store.KV, n Network) store.Txn {
	return store.Txn{
		If:   []store.Cond{store.Unchanged(kv.Key, kv.Rev)},
		Then: []store.Op{store.Put(kv.Key, versioned(n))},
	}
}

// name gives a network that has none its name, which must be free. left is the record of the
// name if it is that of a network that is gone: it is replaced as long as both are so.
func name(kv, left store.KV, n Network) (store.Txn, error) {
	txn := replace(kv, n)
	txn.If = append(txn.If, store.Unchanged(nameKey(n.Name), left.Rev))
	txn.Then = append(txn.Then, store.Put(nameKey(n.Name), versioned(pointer{n.UUID})))
	if left.Rev == 0 {
		return txn, nil
	}
	p, err := decode[pointer](left)
	txn.If = append(txn.If, store.Unchanged(netKey(p.UUID), 0))
	return txn, err
}

// leave takes a host out of a network, with its endpoints. The last one takes the
// network along. named is the record of its name.
func leave(h ownership.Host, kv, named store.KV, n Network) store.Txn {
	n = n.without(h)
	if len(n.Hosts) > 0 {
		txn := replace(kv, n)
		txn.Then = append(txn.Then, store.DeletePrefix(hostKeys(n.UUID, h)))
		return txn
	}
	txn := store.Txn{
		If:   []store.Cond{store.Unchanged(kv.Key, kv.Rev)},
		Then: []store.Op{store.Delete(kv.Key), store.DeletePrefix(prefixEndpoints + n.UUID + "/")},
	}
	if n.VNI != 0 {
		txn.Then = append(txn.Then, store.Delete(vniKey(n.VNI)))
	}
	return freeName(txn, named, n)
}

// remove makes a network a tombstone.
func remove(kv, named store.KV, n Network) store.Txn {
	n.Removed = true
	return freeName(replace(kv, n), named, n)
}

// freeName frees a network's name, if it still has it. That nothing is known of the name may
// be because the news of it are late, so then the store has to know nothing either: a name that
// outlives its network is nobody's and free for nobody.
func freeName(txn store.Txn, named store.KV, n Network) store.Txn {
	p, err := decode[pointer](named)
	switch {
	case n.Name == "":
	case err == nil && p.UUID == n.UUID:
		txn.If = append(txn.If, store.Unchanged(named.Key, named.Rev))
		txn.Then = append(txn.Then, store.Delete(named.Key))
	case !n.Removed: // a tombstone has freed it
		txn.If = append(txn.If, store.Unchanged(nameKey(n.Name), named.Rev))
	}
	return txn
}

// difference is what makes the store say of one host's endpoints on a network what
// they are, in parts that the store takes at once.
func difference(h ownership.Host, uuid string, want map[string]Endpoint, have map[string]store.KV) []store.Txn {
	var ops []store.Op
	prefix := hostKeys(uuid, h)
	for _, id := range sorted(want) {
		value := versioned(want[id])
		if kv, ok := have[prefix+id]; !ok || string(kv.Value) != string(value) {
			ops = append(ops, store.Put(prefix+id, value))
		}
	}
	for _, key := range sorted(have) {
		if _, ok := want[key[len(prefix):]]; !ok {
			ops = append(ops, store.Delete(key))
		}
	}
	return parts(ops, batch, batchBytes)
}

// parts are transactions of at most so many changes each, and so many bytes unless it is one
// change alone.
func parts(ops []store.Op, most, mostBytes int) []store.Txn {
	var out []store.Txn
	var bytes int
	for _, op := range ops {
		size := len(op.Key) + len(op.Value)
		if last := len(out) - 1; last < 0 || len(out[last].Then) == most || bytes+size > mostBytes {
			out, bytes = append(out, store.Txn{}), 0
		}
		last := &out[len(out)-1]
		last.Then = append(last.Then, op)
		bytes += size
	}
	return out
}

func errVNI(vni uint32, owner string) error {
	return fmt.Errorf("%w: %d is that of network %s: choose another one with -o com.docker.network.driver.overlay.vxlanid_list, or leave the choice to weft",
		ErrVNI, vni, owner)
}
