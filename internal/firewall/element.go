package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// A setName is a set or map of weft's tables; its name says in which.
type setName string

// layout says how the kernel keeps the elements of a set.
type layout int

const (
	// layoutPlain: one element, one key.
	layoutPlain layout = iota
	// layoutVerdict: a plain map to verdicts.
	layoutVerdict
	// layoutBounds: an interval is two elements, its first address and the one
	// behind its last.
	layoutBounds
	// layoutRange: an interval is one element with a first and a last key.
	layoutRange
)

func (s setName) layout() layout {
	switch s {
	case "local", "into4", "into6":
		return layoutVerdict
	case "masq4", "masq6", "snat4", "snat6":
		return layoutBounds
	case "hair4", "hair6":
		return layoutRange
	}
	return layoutPlain
}

// tunnel says whether the set is in the tunnels' table.
func (s setName) tunnel() bool { return s == "gw4" || s == "gw6" || s == "nd6" }

// of returns the set's name for one family.
func (s setName) of(v6 bool) setName {
	if v6 {
		return s + "6"
	}
	return s + "4"
}

// An element is one fact as one set or map holds it. It is comparable.
type element struct {
	set setName
	// key and value are nft text; value is empty in a set.
	key, value string
	// first and last are the key's bytes; they differ in an interval only.
	first, last string
	// data are the value's bytes, or the text of a verdict.
	data string
}

// name identifies the element within the table whatever its value.
func (e element) name() string { return string(e.set) + " " + e.key }

// String returns the element as a line of a dump.
func (e element) String() string {
	if e.value == "" {
		return e.name()
	}
	return e.name() + " : " + e.value
}

// A field is one component of a key or a value.
type field struct{ text, first, last string }

func scalar(text string, b []byte) field { return field{text, string(b), string(b)} }

func ifname(name string) field {
	b := make([]byte, 16)
	copy(b, name)
	return scalar(strconv.Quote(name), b)
}

func address(a netip.Addr) field { return scalar(a.String(), a.AsSlice()) }

// number is an address as the number that a raw part of a packet is to nft.
func number(a netip.Addr) field { return scalar(fmt.Sprintf("0x%x", a.AsSlice()), a.AsSlice()) }

func proto(p Proto) field { return scalar(p.String(), []byte{byte(p)}) }

func port(p uint16) field {
	return scalar(strconv.Itoa(int(p)), binary.BigEndian.AppendUint16(nil, p))
}

func subnet(p netip.Prefix) field {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return field{p.String(), string(p.Addr().AsSlice()), string(last)}
}

// join concatenates fields as nftables does: each padded to four bytes, unless
// there is only one.
func join(fields []field) field {
	if len(fields) == 1 {
		return fields[0]
	}
	var out field
	for i, f := range fields {
		if i > 0 {
			out.text += " . "
		}
		pad := string(make([]byte, (4-len(f.first)%4)%4))
		out.text += f.text
		out.first += f.first + pad
		out.last += f.last + pad
	}
	return out
}

func member(set setName, key ...field) element {
	k := join(key)
	return element{set: set, key: k.text, first: k.first, last: k.last}
}

// to makes a map's element of a set's.
func (e element) to(value ...field) element {
	v := join(value)
	e.value, e.data = v.text, v.first
	return e
}

// verdict makes a verdict map's element of a set's.
func (e element) verdict(text string) element {
	e.value, e.data = text, text
	return e
}

// A raw is an element as the kernel keeps it. It is comparable.
type raw struct {
	key, last string
	// bound marks the end of an interval in layoutBounds.
	bound bool
	data  string
}

// raws returns the kernel's elements for one of ours.
func (e element) raws() []raw {
	switch e.set.layout() {
	case layoutRange:
		return []raw{{key: e.first, last: e.last, data: e.data}}
	case layoutBounds:
		first := raw{key: e.first, data: e.data}
		if behind, ok := successor(e.last); ok {
			return []raw{first, {key: behind, bound: true}}
		}
		return []raw{first}
	}
	return []raw{{key: e.first, data: e.data}}
}

// successor adds one to a big-endian number; it has none if all bits are set.
func successor(key string) (string, bool) {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}

// nft returns the command that adds the element to its table.
func (e element) nft(t table) string {
	if e.value == "" {
		return fmt.Sprintf("add element %s %s { %s }\n", t, e.set, e.key)
	}
	return fmt.Sprintf("add element %s %s { %s : %s }\n", t, e.set, e.key, e.value)
}
