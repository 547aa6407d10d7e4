package ownership

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/store"
)

// An Ask is the record by which one host asks another for an address.
type Ask struct {
	// Key and Rev are the record's.
	Key string `json:"-"`
	Rev int64  `json:"-"`
	// From asks. Pool is the prefix of the pool's records.
	From Host   `json:"from"`
	Pool string `json:"pool"`
	// Address is the wanted one; the zero address asks for any of Range.
	Address netip.Addr   `json:"address,omitzero"`
	Range   netip.Prefix `json:"range,omitzero"`
	// Refused says why the owner does not give it.
	Refused string `json:"refused,omitempty"`
}

// askWire is an Ask in the store.
type askWire struct {
	Version int `json:"v"`
	Ask
}

// Encode returns the ask as it is stored.
func (a Ask) Encode() []byte {
	b, err := json.Marshal(askWire{recordVersion, a})
	if err != nil {
		panic("an ask does not encode: " + err.Error()) // it cannot happen
	}
	return b
}

// DecodeAsk reads the record of an ask.
func DecodeAsk(kv store.KV) (Ask, error) {
	if err := CheckVersion(kv.Value, recordVersion); err != nil {
		return Ask{}, err
	}
	var w askWire
	if err := json.Unmarshal(kv.Value, &w); err != nil {
		return Ask{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	w.Key, w.Rev = kv.Key, kv.Rev
	return w.Ask, nil
}

// Refuse returns the transaction that refuses an ask.
func Refuse(a Ask, why string) store.Txn {
	a.Refused = why
	return store.Txn{
		If:   []store.Cond{store.Unchanged(a.Key, a.Rev)},
		Then: []store.Op{store.Put(a.Key, a.Encode())},
	}
}

// AskAgain is the answer of an owner that cannot give an address now, and may be
// able to in a moment.
const AskAgain = "it is on its way to another owner"

// AskElsewhere is the answer of a host that does not own the address any more.
const AskElsewhere = "it has another owner by now"

// moving reports whether an address of rng comes or goes.
func (p *Pool) moving(rng netip.Prefix) bool {
	for _, c := range p.order {
		if (c.rec.Owned[p.cfg.Me]|c.Own|c.Leaving)&^c.used&within(c.first, rng) != 0 {
			return true
		}
	}
	return false
}

// Answer decides about an ask. "" means that the address is on its way; anything
// else says why it is not given.
func (p *Pool) Answer(a Ask) string {
	if p.mode != Normal || !p.synced {
		return AskAgain // it has just started, or the cluster is frozen for a moment
	}
	for _, c := range p.order {
		if slices.ContainsFunc(c.grants, func(g grant) bool { return g.ask.Key == a.Key }) {
			return ""
		}
	}
	switch {
	case a.Address.IsValid() && !p.cfg.Subnet.Contains(a.Address), !a.Address.IsValid() && !a.Range.IsValid():
		return "it is not of this pool"
	case !a.Address.IsValid():
		addr, ok := p.Lowest(a.Range, func(netip.Addr) bool { return false })
		switch {
		case !ok && p.moving(a.Range):
			return AskAgain
		case !ok:
			return "all its addresses are in use"
		}
		a.Address = addr
	}
	c := p.chunk(First(a.Address))
	bit := Bit(a.Address)
	switch {
	case c.used&bit != 0:
		return "it is in use"
	case (c.Own|c.Leaving)&bit == 0:
		return AskElsewhere
	case c.avail()&bit == 0:
		return AskAgain
	}
	c.grants = append(c.grants, grant{bit, a})
	p.touch(c)
	return ""
}
