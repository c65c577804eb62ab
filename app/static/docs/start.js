SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true,
  tryItOutEnabled: true, persistAuthorization: true, displayRequestDuration: true,
  defaultModelsExpandDepth: 0, validatorUrl: null});
