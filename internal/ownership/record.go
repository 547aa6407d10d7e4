package ownership

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/weft-net/weft/internal/store"
)

// recordVersion is the version of the records that this package writes.
const recordVersion = 1

// ErrNewer says that a record was written by a later version of weft.
var ErrNewer = errors.New("the record is of a newer version of weft: update weft on this host")

// ErrDamaged says that a record cannot be read.
var ErrDamaged = errors.New("the record is damaged")

// CheckVersion returns [ErrDamaged] for what is no JSON object, and [ErrNewer] for a
// record whose version "v" is beyond the one that is known. Every record of the store
// has a version.
func CheckVersion(record []byte, known int) error {
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(record, &head); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if head.Version > known {
		return fmt.Errorf("%w (it has version %d, this weft knows %d)", ErrNewer, head.Version, known)
	}
	return nil
}

// DecodeRecord reads any record of the store that is JSON with a version; an absent one
// is the zero value. [CheckVersion] says what its errors are.
func DecodeRecord[T any](kv store.KV, known int) (T, error) {
	var v T
	if kv.Rev == 0 {
		return v, nil
	}
	var err error
	// What weft writes begins with its version: it is not parsed for that alone.
	if ours := fmt.Appendf(nil, `{"v":%d,`, known); !bytes.HasPrefix(kv.Value, ours) {
		err = CheckVersion(kv.Value, known)
	}
	if err == nil {
		if err = json.Unmarshal(kv.Value, &v); err != nil {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", kv.Key, err)
	}
	return v, nil
}

// Host is the id of a host.
type Host string

// A Record says who owns the addresses of one chunk. The zero Record says that
// nobody owns any.
type Record struct {
	// Owned are the addresses of each host.
	Owned map[Host]Mask
	// Dead are those of hosts that an operator removed.
	Dead map[Host]Mask
	// Shared are the addresses that all hosts share, by their bit.
	Shared map[Mask]Shared
}

// Shared is an address that no host owns: a gateway or an aux address.
type Shared struct {
	// Kind is what it is for.
	Kind string `json:"kind"`
	// By are the hosts with a network that has it, sorted.
	By []Host `json:"by"`
}

// wire is a Record in the store.
type wire struct {
	Version int               `json:"v"`
	Owned   map[Host]hexMask  `json:"own,omitempty"`
	Dead    map[Host]hexMask  `json:"dead,omitempty"`
	Shared  map[string]Shared `json:"shared,omitempty"` // by place in the chunk
}

type hexMask Mask

// MarshalText writes sixteen hexadecimal digits.
func (m hexMask) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(m)), nil }

// UnmarshalText reads what MarshalText writes.
func (m *hexMask) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*m = hexMask(n)
	return err
}

// Encode returns the record as it is stored.
func (r Record) Encode() []byte {
	w := wire{Version: recordVersion, Owned: map[Host]hexMask{}, Dead: map[Host]hexMask{}, Shared: map[string]Shared{}}
	for h, m := range r.Owned {
		w.Owned[h] = hexMask(m)
	}
	for h, m := range r.Dead {
		w.Dead[h] = hexMask(m)
	}
	for bit, s := range r.Shared {
		w.Shared[strconv.Itoa(place(bit))] = s
	}
	b, err := json.Marshal(w)
	if err != nil {
		panic("a record of plain maps does not encode: " + err.Error()) // it cannot happen
	}
	return b
}

// Decode reads a record. An unknown field is taken for damage: writing the record
// back would lose it.
func Decode(b []byte) (Record, error) {
	var w wire
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err := dec.Decode(&w)
	if err == nil && len(bytes.TrimSpace(b[dec.InputOffset():])) > 0 {
		err = errors.New("more follows")
	}
	if err != nil || w.Version > recordVersion {
		if err := CheckVersion(b, recordVersion); err != nil {
			return Record{}, err
		}
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var r Record
	var all Mask
	add := func(m Mask) bool {
		twice := all&m != 0
		all |= m
		return !twice
	}
	ok := true
	for h, m := range w.Owned {
		ok = add(Mask(m)) && ok
		r.setOwned(h, Mask(m))
	}
	for h, m := range w.Dead {
		ok = add(Mask(m)) && ok
		r.setDead(h, Mask(m))
	}
	for k, s := range w.Shared {
		i, err := strconv.Atoi(k)
		if err != nil || i < 0 || i >= Size {
			return Record{}, fmt.Errorf("%w: %q is no place in a chunk", ErrDamaged, k)
		}
		ok = add(1<<i) && ok
		r.setShared(1<<i, s)
	}
	if !ok {
		return Record{}, fmt.Errorf("%w: an address has two owners", ErrDamaged)
	}
	return r, nil
}

func place(bit Mask) int { return (bit - 1).Count() }

func (r *Record) clone() Record {
	return Record{Owned: maps.Clone(r.Owned), Dead: maps.Clone(r.Dead), Shared: maps.Clone(r.Shared)}
}

func set[K comparable](to *map[K]Mask, k K, m Mask) {
	if m == 0 {
		delete(*to, k)
		return
	}
	if *to == nil {
		*to = make(map[K]Mask)
	}
	(*to)[k] = m
}

func (r *Record) setOwned(h Host, m Mask) { set(&r.Owned, h, m) }
func (r *Record) setDead(h Host, m Mask)  { set(&r.Dead, h, m) }

func (r *Record) setShared(bit Mask, s Shared) {
	if len(s.By) == 0 {
		delete(r.Shared, bit)
		return
	}
	if r.Shared == nil {
		r.Shared = make(map[Mask]Shared)
	}
	slices.Sort(s.By)
	r.Shared[bit] = s
}

// strip takes addresses from whoever has them.
func (r *Record) strip(m Mask) {
	for h, o := range r.Owned {
		r.setOwned(h, o&^m)
	}
	for h, d := range r.Dead {
		r.setDead(h, d&^m)
	}
	for bit := range r.Shared {
		if bit&m != 0 {
			delete(r.Shared, bit)
		}
	}
}

// living are the addresses that a host owns or all share.
func (r *Record) living() Mask {
	var m Mask
	for _, o := range r.Owned {
		m |= o
	}
	for bit := range r.Shared {
		m |= bit
	}
	return m
}

func (r *Record) dead() Mask {
	var m Mask
	for _, d := range r.Dead {
		m |= d
	}
	return m
}

// sharedBy are the shared addresses that a host's networks have.
func (r *Record) sharedBy(h Host) Mask {
	var m Mask
	for bit, s := range r.Shared {
		if slices.Contains(s.By, h) {
			m |= bit
		}
	}
	return m
}

// share adds a host to, or removes it from, those that have a shared address.
func (r *Record) share(h Host, bit Mask, kind string, has bool) {
	s, ok := r.Shared[bit]
	if !ok {
		s.Kind = kind
	}
	by := slices.DeleteFunc(slices.Clone(s.By), func(x Host) bool { return x == h })
	if has {
		by = append(by, h)
	}
	s.By = by
	r.setShared(bit, s)
}

// Bury turns the addresses of a removed host into dead ones and takes it from the
// shared ones. It reports whether that changed anything.
func (r *Record) Bury(h Host) bool {
	owned, shared := r.Owned[h], r.sharedBy(h)
	if owned == 0 && shared == 0 {
		return false
	}
	r.setOwned(h, 0)
	r.setDead(h, r.Dead[h]|owned)
	for bit := shared; bit != 0; bit &= bit - 1 {
		r.share(h, bit&-bit, "", false)
	}
	return true
}
