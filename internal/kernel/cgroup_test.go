package kernel

import "testing"

func TestUnitName(t *testing.T) {
	for in, want := range map[string]string{
		"": "", ".": "", "system.slice/nginx.service": "nginx.service", "system.slice/nginx.service/worker": "nginx.service",
		"system.slice/docker-0123.scope": "docker-0123.scope", "docker/0123": "0123",
	} {
		if got := unitName(in); got != want {
			t.Errorf("%q: %q instead of %q", in, got, want)
		}
	}
}
