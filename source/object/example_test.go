package object_test

import (
	"fmt"

	"cairnproxy.dev/cairn/source/object"
)

// Text becomes objects, objects become the model, and mistakes have a place.
func Example() {
	f := object.Decode("shop.yaml", []byte(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: admin, port: 99999}
`))
	res := object.Translate(f.Objects, object.Options{})
	for _, s := range res.Parts.Services {
		fmt.Println(s.Key, s.VIPs, s.Ports[0].Name, s.Ports[0].Port, s.Ports[0].Protocol)
	}
	for _, p := range append(f.Problems, res.Problems...) {
		fmt.Println(p)
	}
	// Output:
	// shop/web.shop.svc.cluster.local [10.96.0.1] http 80 HTTP
	// shop.yaml:9: Service shop/web: spec.ports[1].port: 99999 is not a port; use a number from 1 to 65535
}
