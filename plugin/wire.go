package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
)

// Names of the two interfaces, as Plugin.Activate lists them and as they stand
// before the dot of every method.
const (
	InterfaceNetworkDriver = "NetworkDriver"
	InterfaceIPAMDriver    = "IpamDriver"
)

// ActivateResponse answers Plugin.Activate: the interfaces behind the socket.
type ActivateResponse struct {
	Implements []string
}

// empty is the request of a method without a body and the answer of a method
// without a result; it encodes as {}.
type empty struct{}

// family restricts an address: 4, 6 or anyFamily.
type family int

const anyFamily family = 0

// fits reports whether a belongs to f. IPv4 in IPv6 notation fits nowhere: the
// engine never sends it, and it would compare unequal to the same IPv4 address.
func (f family) fits(a netip.Addr) bool {
	switch f {
	case 4:
		return a.Is4()
	case 6:
		return a.Is6() && !a.Is4In6()
	default:
		return !a.Is4In6()
	}
}

func (f family) String() string {
	if f == anyFamily {
		return "IP"
	}
	return fmt.Sprintf("IPv%d", int(f))
}

// parsePrefix reads text in CIDR form and keeps its host bits. Empty text is
// the zero prefix.
func parsePrefix(field, text string, f family) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !f.fits(p.Addr()) {
		return netip.Prefix{}, &FieldError{Field: field, Value: text, Want: fmt.Sprintf("an %s address with a prefix length", f)}
	}
	return p, nil
}

// parseAddr reads an address without a prefix length. Empty text is the zero
// address.
func parseAddr(field, text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !anyFamily.fits(a) || a.Zone() != "" {
		return netip.Addr{}, &FieldError{Field: field, Value: text, Want: "an IP address"}
	}
	return a, nil
}

// parseMAC reads a hardware address in text form. Empty text is nil.
func parseMAC(field, text string) (net.HardwareAddr, error) {
	if text == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(text)
	if err != nil {
		return nil, &FieldError{Field: field, Value: text, Want: "a MAC address"}
	}
	return mac, nil
}

// require returns an error unless value was sent.
func require(field, value string) error {
	if value == "" {
		return &FieldError{Field: field, Want: "a non-empty string"}
	}
	return nil
}

// decodeInto is json.Unmarshal with errors that name the field and the value.
func decodeInto(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &FieldError{Field: te.Field, Value: strings.TrimPrefix(te.Value, "number "), Want: kindText(te.Type)}
	}
	return err
}

// decodeList decodes a JSON list element by element, so that an error can name
// the index. null is a nil list, [] an empty one.
func decodeList[T any](data []byte) ([]T, error) {
	var raw []json.RawMessage
	if err := decodeInto(data, &raw); err != nil || raw == nil {
		return nil, err
	}
	list := make([]T, len(raw))
	for i, r := range raw {
		if isNull(r) {
			return nil, &FieldError{Field: fmt.Sprintf("[%d]", i), Value: "null", Want: "a list element"}
		}
		if err := decodeInto(r, &list[i]); err != nil {
			return nil, under(fmt.Sprintf("[%d]", i), err)
		}
	}
	return list, nil
}

// decodeStrings decodes an object of strings. Booleans and numbers become their
// JSON text; any other value is an error that names its key. null is a nil map,
// {} an empty one.
func decodeStrings(data []byte) (map[string]string, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var raw map[string]json.RawMessage
	if err := decodeInto(data, &raw); err != nil || raw == nil {
		return nil, err
	}
	out := make(map[string]string, len(raw))
	for key, value := range raw {
		switch value[0] {
		case '"':
			var s string
			if err := decodeInto(value, &s); err != nil {
				return nil, under(fmt.Sprintf("[%q]", key), err)
			}
			out[key] = s
		case '{', '[', 'n':
			return nil, &FieldError{Field: fmt.Sprintf("[%q]", key), Value: string(value), Want: "a string, a number or a boolean"}
		default:
			out[key] = string(value)
		}
	}
	return out, nil
}

func isNull(data []byte) bool { return bytes.Equal(bytes.TrimSpace(data), []byte("null")) }

// kindText says in words what a Go type wants from JSON.
func kindText(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Uint8:
		return "a number from 0 to 255"
	case reflect.Uint16:
		return "a number from 0 to 65535"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	default:
		return "an object"
	}
}
