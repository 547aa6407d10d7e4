package plugin_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/plugin"
)

// stable decodes data and checks that what was accepted survives a round trip.
func stable[T any](t *testing.T, data []byte) {
	t.Helper()
	var first, second T
	if json.Unmarshal(data, &first) != nil {
		return
	}
	once, err := json.Marshal(first)
	if err != nil {
		t.Fatalf("%T was accepted from %s and does not encode: %v", first, data, err)
	}
	if err := json.Unmarshal(once, &second); err != nil {
		t.Fatalf("%T encodes to %s, which is refused: %v", first, once, err)
	}
	twice, err := json.Marshal(second)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%T changes from %s to %s (%v)", first, once, twice, err)
	}
}

func seed(f *testing.F, prefix string) {
	f.Helper()
	for _, r := range recordings(f) {
		if strings.HasPrefix(r.Path, prefix) && r.body() != nil {
			f.Add(r.body())
		}
	}
}

func FuzzDecodeNetwork(f *testing.F) {
	seed(f, "/NetworkDriver.")
	f.Fuzz(func(t *testing.T, data []byte) {
		stable[plugin.AllocateNetworkRequest](t, data)
		stable[plugin.GwAllocCheckRequest](t, data)
		stable[plugin.CreateNetworkRequest](t, data)
		stable[plugin.NetworkRequest](t, data)
		stable[plugin.EndpointRequest](t, data)
		stable[plugin.CreateEndpointRequest](t, data)
		stable[plugin.JoinRequest](t, data)
		stable[plugin.ProgramRequest](t, data)
		stable[plugin.DiscoverRequest](t, data)
	})
}

func FuzzDecodeIPAM(f *testing.F) {
	seed(f, "/IpamDriver.")
	f.Fuzz(func(t *testing.T, data []byte) {
		stable[plugin.RequestPoolRequest](t, data)
		stable[plugin.ReleasePoolRequest](t, data)
		stable[plugin.RequestAddressRequest](t, data)
		stable[plugin.ReleaseAddressRequest](t, data)
	})
}

// FuzzHandler sends any body to any method through the socket: each answer is
// valid JSON, and a panic anywhere would show as the bug message.
func FuzzHandler(f *testing.F) {
	for _, r := range recordings(f) {
		f.Add(strings.TrimPrefix(r.Path, "/"), r.body())
	}
	s := serve(f, plugin.Config{Timeout: 5 * time.Second})
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		if strings.ContainsFunc(name, func(r rune) bool { return r != '.' && (r < 'A' || r > 'z') }) || strings.Contains(name, "..") || strings.ContainsAny(name, `\^[]`) || name == "." {
			t.Skip("not a method name")
		}
		got := s.do(t, http.MethodPost, "/"+name, body)
		if strings.Contains(got.err, "this is a bug") {
			t.Fatalf("%s %q: %s", name, body, got.err)
		}
		if (got.status == http.StatusOK) != (got.err == "") {
			t.Fatalf("%s %q: status %d with error %q", name, body, got.status, got.err)
		}
	})
}
