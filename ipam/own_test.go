package ipam_test

import "testing"

// TestGives: a book gives a network's addresses from its creation on, and nobody else's.
func TestGives(t *testing.T) {
	h := newHost(t)
	if h.Gives("net", prefix("10.1.0.0/24")) {
		t.Error("without a pool")
	}
	h.subnet(t, "10.1.0.0/24")
	if !h.Gives("net", prefix("10.1.0.0/24")) || h.Gives("net", prefix("10.1.0.0/25")) {
		t.Error("while the network is being created")
	}
	if err := h.Bind(t.Context(), "net", prefix("10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if !h.Gives("net", prefix("10.1.0.0/24")) || h.Gives("other", prefix("10.1.0.0/24")) {
		t.Error("when it is the network's")
	}
}
