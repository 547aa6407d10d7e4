package engine_test

import (
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/engine"
)

func TestPluginID(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("f", 64)
	for text, want := range map[string]string{
		"": "",
		"1 2 0:3 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n":                                                                 "",
		"7 6 0:5 /var/lib/docker/plugins/" + id + "/rootfs / rw - overlay overlay rw\n":                                          id,
		"7 6 0:5 / / rw - overlay overlay rw\n8 7 0:9 /docker/plugins/" + id + " /run/docker/plugins rw,nosuid - tmpfs tmpfs rw": id,
		// Another plugin's folder, seen through the host's /var/lib.
		"8 7 0:9 /x/plugins/" + other + "/propagated-mount /var/lib/docker/plugins/" + other + "/propagated-mount rw - ext4 /dev/vda1 rw\n": "",
		"9 7 0:9 /docker/containers/" + id + " / rw - tmpfs tmpfs rw\n":                                                                     "",
		"short line\n": "",
	} {
		if got := engine.PluginID(text); got != want {
			t.Errorf("%q: %q instead of %q", text, got, want)
		}
	}
}

func TestSeesMounts(t *testing.T) {
	for text, want := range map[string]bool{
		"161 102 0:54 / /run rw,nosuid,nodev master:36 - tmpfs tmpfs rw\n162 161 0:54 /x /run/x rw - tmpfs tmpfs rw\n": true,
		"161 102 0:54 / /run rw shared:43 master:36 - tmpfs tmpfs rw\n":                                                true,
		"161 102 0:54 / /run rw - tmpfs tmpfs rw\n162 161 0:54 /x /run/x rw shared:1 - tmpfs tmpfs rw\n":               false,
		"161 102 0:54 / /run rw propagate_from:2 - tmpfs shared:1 rw\n":                                                false,
		"1 2 0:3 / / rw - ext4 /dev/vda1 rw\n":                                                                         true,
	} {
		if got := engine.SeesMounts(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
