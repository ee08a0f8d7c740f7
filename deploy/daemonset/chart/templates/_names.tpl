{{- define "nodemesh.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- with .root.Values.image.registry -}}{{ trimSuffix "/" . }}/{{- end -}}
nodemesh-{{ .part }}:{{ $tag }}
{{- end -}}

{{- define "nodemesh.labels" -}}
app.kubernetes.io/name: nodemesh-{{ .part }}
app.kubernetes.io/part-of: nodemesh
{{- end -}}

{{- define "nodemesh.letController" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .role }}
  namespace: {{ .namespace }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .role }}
subjects:
  - kind: ServiceAccount
    name: nodemesh-controller
    namespace: {{ .root.Release.Namespace }}
{{- end -}}
