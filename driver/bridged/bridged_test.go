package bridged_test

import (
	"slices"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/kernel"
)

// TestCheckPorts: what is wrong with a link is told, but not of one that is about to be
// deleted: that would mend the whole network whenever a container stops.
func TestCheckPorts(t *testing.T) {
	bridge := kernel.Link{Name: "wf-1", Index: 5, Up: true}
	for name, c := range map[string]struct {
		link kernel.Link
		off  bool
		want []string
	}{
		"good":                     {link: kernel.Link{Up: true, Master: 5}},
		"gone":                     {link: kernel.Link{Name: "other"}},
		"down":                     {link: kernel.Link{Master: 5}, want: []string{"link wv-1 of endpoint e was down"}},
		"in no bridge":             {link: kernel.Link{Up: true}, want: []string{"link wv-1 of endpoint e was not in bridge wf-1"}},
		"off":                      {link: kernel.Link{Master: 5}, off: true},
		"off and up":               {link: kernel.Link{Up: true, Master: 5}, off: true, want: []string{"link wv-1 of endpoint e was up, and its address belongs to another host"}},
		"about to be deleted":      {link: kernel.Link{Group: kernel.DoomedGroup, Master: 5}},
		"about to be deleted, off": {link: kernel.Link{Group: kernel.DoomedGroup}, off: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := c.link
			if l.Name == "" {
				l.Name = "wv-1"
			}
			ep := driver.Endpoint{ID: "e", HostLink: "wv-1", Joined: true, Off: c.off}
			got := bridged.CheckPorts(driver.Actual{Links: map[string]kernel.Link{l.Name: l}}, bridge, []driver.Endpoint{ep})
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
