package cluster

import (
	"bytes"

	"github.com/weft-net/weft/internal/store"
)

// A memo decodes records by key, each state of one once: pools are asked about with
// every address, hosts with every endpoint that comes or goes anywhere.
type memo[T any] map[string]reading[T]

// A reading is what the record with these bytes says.
type reading[T any] struct {
	bytes []byte
	says  T
	err   error
}

// read is decode. Who gets what it returns shares it with others, and must not change it.
func (m memo[T]) read(key string, kv store.KV) (T, error) {
	if kv.Rev == 0 {
		delete(m, key)
		var none T
		return none, nil
	}
	r, ok := m[key]
	if !ok || !bytes.Equal(r.bytes, kv.Value) {
		r = reading[T]{bytes: kv.Value}
		r.says, r.err = decode[T](kv)
		m[key] = r
	}
	return r.says, r.err
}
